//! Where lines go, without ever holding up a connection.
//!
//! A line is written at once by the thread that logs it, as long as that cannot block: nothing is lost in a crash, no
//! other thread is woken. When the reader is slow (a full pipe, a stopped terminal), lines go to a bounded backlog that
//! a thread of its own writes; when that is full, they are dropped and counted.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    termios::isatty,
};

/// Bytes that wait for a slow reader.
const BACKLOG: usize = 1 << 20;

/// What a pipe takes without blocking once it is writable (PIPE_BUF of Linux).
const ATOMIC: usize = 4096;

/// A place for lines.
#[derive(Clone, Debug)]
pub enum Target {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file.
    File(Arc<File>),
}

impl Target {
    /// Opens a log file for appending, creating it with mode 0644.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o644).open(path)?;
        crate::files::give_to_invoker(path);
        Ok(Self::File(Arc::new(file)))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stderr => rustix::stdio::stderr(),
            Self::Stdout => rustix::stdio::stdout(),
            Self::File(file) => file.as_fd(),
        }
    }

    /// Whether somebody looks at it.
    pub fn is_terminal(&self) -> bool {
        isatty(self.fd())
    }

    /// Whether a write can take arbitrarily long: not to a file or to `/dev/null`.
    fn may_block(&self) -> bool {
        let kind = rustix::fs::fstat(self.fd()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile) => false,
            Ok(FileType::CharacterDevice) => self.is_terminal(),
            _ => true,
        }
    }

    /// Writes everything, however long it takes. Errors end it: there is nowhere to report them.
    pub(super) fn write_blocking(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(self.fd(), bytes) {
                Ok(0) => return,
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                // Somebody made the descriptor non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)], None);
                }
                Err(_) => return,
            }
        }
    }

    /// Whether a short write would go through now.
    fn is_ready(&self) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)];
        // An error counts as ready: the write will tell.
        poll(&mut fds, Some(&zero)) != Ok(0)
    }
}

/// A target with its backlog.
pub struct Output {
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    target: Target,
    may_block: bool,
    backlog: Vec<u8>,
    dropped: u64,
    /// A thread writes the backlog. Until it is done, lines queue behind it.
    draining: bool,
}

impl Output {
    /// An output that writes to `target`.
    pub fn new(target: Target) -> Self {
        let may_block = target.may_block();
        let state = State { target, may_block, backlog: Vec::new(), dropped: 0, draining: false };
        Self { state: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state.0)
    }

    /// Writes to another target from now on. What waits for the old one is still written there.
    pub fn retarget(&self, target: Target) {
        let may_block = target.may_block();
        let mut state = self.lock();
        (state.target, state.may_block) = (target, may_block);
    }

    /// Writes a line, or queues it.
    pub fn write(&self, line: &[u8]) {
        let mut state = self.lock();
        let direct = !state.draining
            && (!state.may_block || (line.len() <= ATOMIC && state.target.is_ready()));
        if direct {
            state.target.write_blocking(line);
            return;
        }
        if state.backlog.len() + line.len() > BACKLOG {
            state.dropped += 1;
            return;
        }
        state.backlog.extend_from_slice(line);
        if !state.draining {
            state.draining = true;
            let shared = self.state.clone();
            let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024);
            if thread.spawn(move || drain(&shared)).is_err() {
                state.draining = false;
                state.dropped += 1;
                state.backlog.clear();
            }
        }
    }

    /// Waits until nothing is queued, but not longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let state = self.lock();
        // Timed out or not: the caller goes on.
        let _ = self.state.1.wait_timeout_while(state, patience, |state| state.draining);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the backlog until it is empty.
fn drain(shared: &(Mutex<State>, Condvar)) {
    let mut chunk = Vec::new();
    loop {
        let target = {
            let mut state = lock(&shared.0);
            chunk.clear();
            std::mem::swap(&mut chunk, &mut state.backlog);
            if chunk.is_empty() && state.dropped == 0 {
                state.draining = false;
                state.backlog = Vec::new();
                shared.1.notify_all();
                return;
            }
            if state.dropped > 0 {
                let dropped = std::mem::take(&mut state.dropped);
                let note =
                    format!("WARN log: {dropped} lines were dropped, the reader is too slow\n");
                chunk.extend_from_slice(note.as_bytes());
            }
            state.target.clone()
        };
        target.write_blocking(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, time::Instant};

    use super::*;

    #[test]
    fn a_reader_that_sleeps_holds_nobody_up_and_learns_what_it_missed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let output = Output::new(Target::File(Arc::new(writer)));
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let began = Instant::now();
        for _ in 0..30_000 {
            output.write(&line);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        output.flush(Duration::from_secs(10));
        drop(output);
        let text = read.join().unwrap();
        let whole = text.lines().filter(|line| line.len() == 99).count();
        // One note or several: the thread may have caught up in between.
        let notes = text.lines().filter_map(|line| line.strip_prefix("WARN log: "));
        let dropped: usize =
            notes.map(|note| note.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert!(dropped > 0);
        assert_eq!(whole + dropped, 30_000);
    }

    #[test]
    fn lines_are_in_the_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let output = Output::new(Target::open(path.to_str().unwrap()).unwrap());
        output.write(b"one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        // Rotated: the old name leads elsewhere until the next reload.
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        output.retarget(Target::open(path.to_str().unwrap()).unwrap());
        output.write(b"two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }
}
