//! epoll, thinly.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, Result};

pub(crate) use rustix::event::epoll::EventFlags as Flags;

/// An epoll instance and the events of its last wait.
pub(crate) struct Poller {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(crate) fn new() -> Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { fd, events: Vec::with_capacity(256) })
    }

    /// Watches a descriptor; closing it ends the watch.
    pub(crate) fn add(&self, fd: impl AsFd, token: u64, flags: Flags) -> Result<()> {
        epoll::add(&self.fd, fd, epoll::EventData::new_u64(token), flags)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: u64, flags: Flags) -> Result<()> {
        epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token), flags)
    }

    /// Waits up to `until`, at most `cap`, and hands out (token, flags) pairs.
    pub(crate) fn wait(&mut self, until: Instant, cap: Duration) -> Result<Vec<(u64, Flags)>> {
        let left = until.saturating_duration_since(Instant::now()).min(cap);
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        Ok(self.events.iter().map(|event| (event.data.u64(), event.flags)).collect())
    }
}

/// `None` when the call would block.
pub(crate) fn ready<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e),
    }
}
