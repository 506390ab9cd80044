//! Pipes for splice, pooled.
//!
//! A direction takes a pipe when data comes in bulk and gives it back, empty, when its source idles.
//! Pipes that nobody wanted for [`IDLE`] are closed, so that descriptors and kernel memory come back
//! after a burst.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::{io::Interest, net::TcpStream};

/// Wanted capacity in bytes: the most that an unprivileged process gets by default.
const CAPACITY: usize = 1 << 20;

/// Below this capacity splicing costs more than copying. A user over the soft limit of
/// `fs.pipe-user-pages-soft` gets pipes of two pages.
const CAPACITY_MIN: usize = 64 * 1024;

/// Most that one splice call moves.
const CALL: usize = 1 << 20;

/// Pipes that the pool keeps.
const KEPT: usize = 32;

/// How long the pool keeps a pipe that nobody takes.
const IDLE: Duration = Duration::from_secs(4);

/// How long no pipe is asked for after the system refused one.
const REFUSED: Duration = Duration::from_secs(1);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static KEEPER: AtomicBool = AtomicBool::new(false);
static POOL: Mutex<Vec<(Pipe, Instant)>> = Mutex::new(Vec::new());
/// Milliseconds after [`start`] before which no pipe is asked for.
static REFUSED_UNTIL: AtomicU64 = AtomicU64::new(0);

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Pipes that may exist at once: a sixteenth of the descriptors go to them at most (two each), and
/// under back-pressure each may hold about a megabyte of kernel memory.
fn limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        usize::try_from(files.unwrap_or(u64::MAX) / 32).unwrap_or(usize::MAX).clamp(8, 512)
    })
}

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    len: usize,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    fn open() -> Option<Self> {
        let now = start().elapsed().as_millis() as u64;
        if now < REFUSED_UNTIL.load(Ordering::Relaxed) {
            return None;
        }
        if LIVE.fetch_add(1, Ordering::Relaxed) >= limit() {
            LIVE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let made = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
        let Ok((read, write)) = made else {
            LIVE.fetch_sub(1, Ordering::Relaxed);
            REFUSED_UNTIL.store(now + REFUSED.as_millis() as u64, Ordering::Relaxed);
            return None;
        };
        let pipe = Self { read, write, len: 0 };
        let capacity = [CAPACITY, CAPACITY / 4]
            .into_iter()
            .find_map(|size| rustix::pipe::fcntl_setpipe_size(&pipe.write, size).ok())
            .or_else(|| rustix::pipe::fcntl_getpipe_size(&pipe.write).ok());
        if capacity.unwrap_or(0) < CAPACITY_MIN {
            REFUSED_UNTIL.store(now + REFUSED.as_millis() as u64, Ordering::Relaxed);
            return None;
        }
        Some(pipe)
    }

    /// Bytes in the pipe.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Moves what the socket has into the pipe. 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`, with the socket's readiness cleared, when it has nothing. On a pipe that is
    /// not empty the same error may mean that the pipe is full: call this on an empty one only.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert_eq!(self.len, 0, "EAGAIN would be ambiguous");
        let n = from.try_io(Interest::READABLE, || {
            Ok(rustix::pipe::splice(from, None, &self.write, None, CALL, FLAGS)?)
        })?;
        self.len += n;
        Ok(n)
    }

    /// Moves what the pipe holds into the socket; returns how much the socket took.
    ///
    /// # Errors
    /// `WouldBlock`, with the socket's readiness cleared, when it takes nothing.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let mut moved = 0;
        let result = to.try_io(Interest::WRITABLE, || {
            moved = rustix::pipe::splice(&self.read, None, to, None, self.len, FLAGS)?;
            // Less than offered means that the socket is full: say so here, so that its readiness
            // is cleared without another call that could only fail.
            if moved < self.len { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        self.len -= moved;
        match result {
            Err(error) if moved == 0 => Err(error),
            _ => Ok(moved),
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Takes a pipe, empty. `None` when there are enough, or when the system gives none of use: copy then.
pub(super) fn take() -> Option<Pipe> {
    let pooled = POOL.lock().pop();
    pooled.map(|(pipe, _)| pipe).or_else(Pipe::open)
}

/// Gives a pipe back. One with bytes in it is closed: they belong to a connection that has ended.
pub(super) fn give(pipe: Pipe) {
    if pipe.len != 0 {
        return;
    }
    let mut pool = POOL.lock();
    if pool.len() < KEPT {
        pool.push((pipe, Instant::now()));
        drop(pool);
        keep();
    }
}

/// Pipes that exist, and how many of them are in the pool.
pub(super) fn count() -> (usize, usize) {
    (LIVE.load(Ordering::Relaxed), POOL.lock().len())
}

/// Sees to it that a task closes pipes that stay unused. It ends when the pool is empty.
fn keep() {
    if KEEPER.load(Ordering::Relaxed) || KEEPER.swap(true, Ordering::AcqRel) {
        return;
    }
    /// Lets another keeper start, also when the runtime drops this one.
    struct Resign;
    impl Drop for Resign {
        fn drop(&mut self) {
            KEEPER.store(false, Ordering::Release);
        }
    }
    let resign = Resign;
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let _resign = resign;
        loop {
            tokio::time::sleep(IDLE / 2).await;
            let mut pool = POOL.lock();
            // The last given is the first taken, so the front is the oldest.
            let old = pool.iter().take_while(|(_, since)| since.elapsed() >= IDLE).count();
            let closed: Vec<_> = pool.drain(..old).collect();
            let empty = pool.is_empty();
            if empty {
                pool.shrink_to_fit();
            }
            drop(pool);
            drop(closed);
            if empty {
                return;
            }
        }
    });
}
