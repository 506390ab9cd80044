//! How many connections there may be, and what happens beyond.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tracing::{debug, error, warn};

use crate::{BuildCx, component::Fault, net::os_text};

/// Descriptors kept for listeners, files, control and DNS.
const RESERVED: u64 = 128;

/// Descriptors of one connection: the client's socket and ours.
const PER_CONNECTION: u64 = 2;

/// Never fewer connections than this: a small limit is rather met at EMFILE than here.
const FLOOR: u64 = 256;

/// First pause after a lack of resources.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(150);

/// How long descriptors may be lacking before clients that wait are turned away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Errors in a row that concern one client each, until we suspect more behind them.
const STRIKES: u32 = 32;

/// At most one line per this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// At most one line about clients turned away per this time.
const AWAY_INTERVAL: Duration = Duration::from_secs(10);

/// Raises the number of descriptors that this process may open to what the system allows, and returns
/// it. Call it before the first listener is built: [`permits`] is sized by it. One descriptor is kept from now on, to
/// turn clients away with when there are no others.
///
/// # Errors
/// The limit could not be raised.
pub fn raise_nofile() -> io::Result<u64> {
    super::spare::hold();
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum;
    if now.current != wanted {
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted })?;
    }
    Ok(wanted.unwrap_or(u64::MAX))
}

fn nofile() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The permits of all connections of this process, made at the first use: half of the descriptors, less
/// some for other things.
#[must_use]
pub fn permits() -> Arc<Semaphore> {
    shared().0.clone()
}

/// How many connections there may be at a time.
#[must_use]
pub fn connection_limit() -> usize {
    shared().1
}

/// A permit for a connection that no accept loop took (a UDP association), if one is free.
#[must_use]
pub fn permit() -> Option<OwnedSemaphorePermit> {
    permits().try_acquire_owned().ok()
}

fn shared() -> &'static (Arc<Semaphore>, usize) {
    static PERMITS: OnceLock<(Arc<Semaphore>, usize)> = OnceLock::new();
    PERMITS.get_or_init(|| {
        let count = size(nofile());
        (Arc::new(Semaphore::new(count)), count)
    })
}

fn size(nofile: u64) -> usize {
    let count = (nofile.saturating_sub(RESERVED) / PER_CONNECTION).max(FLOOR);
    usize::try_from(count).unwrap_or(usize::MAX).min(1 << 24)
}

/// Says that the connection limit is reached.
pub(super) fn report_full(cx: &BuildCx) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    if due(&LAST, LOG_INTERVAL) {
        warn!(
            component = %cx.me,
            "accept paused: {} connections, as many as {} descriptors allow",
            connection_limit(),
            nofile()
        );
    }
}

/// Says that clients were turned away.
pub(super) fn report_away(cx: &BuildCx, count: usize) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static LAST: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(count as u64, Ordering::Relaxed);
    if count > 0 && due(&LAST, AWAY_INTERVAL) {
        let count = COUNT.swap(0, Ordering::Relaxed);
        warn!(component = %cx.me, "{count} waiting connections closed for want of descriptors");
    }
}

/// Whether `interval` has passed since it last returned true for `last`.
fn due(last: &AtomicU64, interval: Duration) -> bool {
    static START: OnceLock<Instant> = OnceLock::new();
    let interval = interval.as_millis() as u64;
    // Starts one interval after zero, so that the first call is due.
    let now = START.get_or_init(Instant::now).elapsed().as_millis() as u64 + interval;
    let seen = last.load(Ordering::Relaxed);
    now.saturating_sub(seen) >= interval
        && last.compare_exchange(seen, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// What an error of `accept` means for the loop.
#[derive(Default)]
pub(super) struct Pause {
    until: Option<Instant>,
    last: Option<Duration>,
    /// Since when no connection could be accepted for want of resources.
    since: Option<Instant>,
    strikes: u32,
}

/// For how long resources have been lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Not at all, or not for long.
    Short,
    /// Descriptors, for so long that clients should be told.
    Long,
}

impl Pause {
    /// Takes an error: plans a pause where one is needed.
    ///
    /// # Errors
    /// The socket is broken.
    pub(super) fn on(&mut self, error: &io::Error, cx: &BuildCx) -> Result<Lack, Fault> {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.plan();
                static LAST: AtomicU64 = AtomicU64::new(0);
                if due(&LAST, LOG_INTERVAL) {
                    error!(
                        component = %cx.me,
                        "accept paused: {} (limit {}, {} connections live)",
                        os_text(error),
                        nofile(),
                        cx.plane.ledger.len()
                    );
                }
                let since = *self.since.get_or_insert_with(Instant::now);
                let ours = error.raw_os_error() == Some(libc::EMFILE);
                Ok(if ours && since.elapsed() >= PATIENCE { Lack::Long } else { Lack::Short })
            }
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                Err(Fault(format!("accept: {}", os_text(error))))
            }
            // accept(2): what else comes is an error of the connection that would have been accepted.
            _ => {
                debug!(component = %cx.me, "accept: {}", os_text(error));
                self.strikes += 1;
                if self.strikes >= STRIKES {
                    self.strikes = 0;
                    self.plan();
                }
                Ok(Lack::Short)
            }
        }
    }

    fn plan(&mut self) {
        let pause = self.last.map_or(PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        (self.until, self.last) = (Some(Instant::now() + pause), Some(pause));
    }

    /// A connection was accepted.
    pub(super) fn clear(&mut self) {
        (self.last, self.since, self.strikes) = (None, None, 0);
    }

    /// Whether the loop must pause before the next accept.
    pub(super) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// Sits out the planned pause. May be dropped in between and called again.
    pub(super) async fn wait(&mut self) {
        if let Some(until) = self.until {
            tokio::time::sleep_until(until).await;
            self.until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_descriptors() {
        assert_eq!(size(20_000), 9936);
        assert_eq!(size(1024), 448);
        assert_eq!(size(100), 256);
        assert_eq!(size(u64::MAX), 1 << 24);
    }

    #[test]
    fn lines_are_rationed() {
        let last = AtomicU64::new(0);
        assert!(due(&last, LOG_INTERVAL));
        assert!(!due(&last, LOG_INTERVAL));
        std::thread::sleep(LOG_INTERVAL);
        assert!(due(&last, LOG_INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_pause_end_or_pass() {
        let cx = crate::net::testkit::Kit::default().cx();
        let mut pause = Pause::default();
        let on = |pause: &mut Pause, code| pause.on(&io::Error::from_raw_os_error(code), &cx);
        // A lack of resources: longer and longer, until a connection comes.
        let mut waits = Vec::new();
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EMFILE] {
            on(&mut pause, code).unwrap();
            let started = Instant::now();
            pause.wait().await;
            waits.push(started.elapsed().as_millis());
        }
        assert_eq!(waits, [50, 100, 150, 150, 150]);
        pause.clear();
        on(&mut pause, libc::EMFILE).unwrap();
        let started = Instant::now();
        // A beat in between does not start the pause anew.
        let _ = tokio::time::timeout(Duration::from_millis(30), pause.wait()).await;
        pause.wait().await;
        assert_eq!(started.elapsed().as_millis(), 50);
        pause.clear();

        // Errors of one client: the next one is taken at once, unless there is no end of them.
        for _ in 1..STRIKES {
            on(&mut pause, libc::ECONNABORTED).unwrap();
            assert!(!pause.is_due());
        }
        on(&mut pause, libc::EPROTO).unwrap();
        assert!(pause.is_due());

        // A broken socket is for the supervisor.
        let fault = on(&mut pause, libc::EBADF).unwrap_err();
        assert_eq!(fault.to_string(), "accept: bad file descriptor");
    }
}
