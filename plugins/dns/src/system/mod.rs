//! Files of the system that are read again when they have changed.

pub mod hosts;
#[cfg(feature = "local")]
pub mod resolv;

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::Instant};

/// A file is looked at again at most this often, as in the reference.
const MAX_AGE: Duration = Duration::from_secs(5);

/// A file and what it said when it was read last.
pub(crate) struct Watched<T> {
    path: PathBuf,
    /// Larger files are not read.
    max_size: u64,
    /// What a file that has gone says now; `None` keeps what was known.
    gone: Option<fn() -> T>,
    parse: fn(&str) -> T,
    /// Set once the file has been looked at: before that, nobody is told anything.
    first: OnceCell<()>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    looked: Option<Instant>,
    version: Option<Version>,
}

/// What tells one content from another without reading it: time of the last change, length, inode.
type Version = (Option<SystemTime>, u64, u64);

impl<T: Send + Sync + 'static> Watched<T> {
    /// A file; it need not exist yet. Nothing is read before the first [`Watched::get`].
    pub(crate) fn new(
        path: impl Into<PathBuf>,
        max_size: u64,
        gone: Option<fn() -> T>,
        parse: fn(&str) -> T,
    ) -> Arc<Self> {
        let state = State { value: Arc::new(parse("")), looked: None, version: None };
        let (path, first, state) = (path.into(), OnceCell::new(), Mutex::new(state));
        Arc::new(Self { path, max_size, gone, parse, first, state })
    }

    /// What the file says, or said at most a few seconds ago. Read on a thread that may block; while one caller waits
    /// for that, others get what was known.
    pub(crate) async fn get(self: &Arc<Self>) -> Arc<T> {
        let look = async || {
            let own = self.clone();
            // A panic there means that the old content stays.
            let _ = tokio::task::spawn_blocking(move || own.refresh()).await;
        };
        if self.first.initialized() {
            if self.stale() {
                look().await;
            }
        } else {
            let first = async || {
                self.stale();
                look().await;
            };
            self.first.get_or_init(first).await;
        }
        self.state.lock().value.clone()
    }

    /// What the file said when it was read last.
    #[cfg(feature = "local")]
    pub(crate) fn known(&self) -> Arc<T> {
        self.state.lock().value.clone()
    }

    /// Whether it is time to look at the file again. True for one caller only, who has to do it.
    fn stale(&self) -> bool {
        let mut state = self.state.lock();
        let stale = state.looked.is_none_or(|at| at.elapsed() >= MAX_AGE);
        if stale {
            state.looked = Some(Instant::now());
        }
        stale
    }

    /// Reads the file if it has changed. A file that cannot be read keeps what was known.
    fn refresh(&self) {
        let meta = match std::fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(error) => {
                if let (io::ErrorKind::NotFound, Some(gone)) = (error.kind(), self.gone) {
                    let value = Arc::new(gone());
                    let mut state = self.state.lock();
                    (state.value, state.version) = (value, None);
                }
                return;
            }
        };
        let version = Some((meta.modified().ok(), meta.len(), meta.ino()));
        if version == self.state.lock().version || meta.len() > self.max_size {
            return;
        }
        if let Ok(bytes) = std::fs::read(&self.path) {
            let value = Arc::new((self.parse)(&String::from_utf8_lossy(&bytes)));
            let mut state = self.state.lock();
            (state.value, state.version) = (value, version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_at_the_next_look() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let keeps = Watched::new(&path, 8, None, str::to_owned);
        let forgets = Watched::new(&path, 8, Some(String::new), str::to_owned);
        let both = async || (keeps.get().await.to_string(), forgets.get().await.to_string());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let later = || tokio::time::advance(MAX_AGE);
        assert_eq!(both().await, pair("", ""));
        std::fs::write(&path, "one").expect("written");
        assert_eq!(both().await, pair("", ""));
        later().await;
        assert_eq!(both().await, pair("one", "one"));
        std::fs::write(&path, "far too long").expect("written");
        later().await;
        assert_eq!(both().await, pair("one", "one"));
        std::fs::remove_file(&path).expect("removed");
        later().await;
        assert_eq!(both().await, pair("one", ""));
        // Written anew with the same length, and perhaps within one tick of the clock.
        std::fs::write(&path, "two").expect("written");
        later().await;
        assert_eq!(both().await, pair("two", "two"));
    }
}
