//! One descriptor kept to be given up when there are no others, so that clients who have waited long can at
//! least be told no, instead of hanging until their own time-out.

use std::os::fd::OwnedFd;

use futures_util::FutureExt;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tokio::net::TcpListener;

static SPARE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Takes a descriptor to keep, if there is none yet and the system has one.
pub(super) fn hold() {
    let mut spare = SPARE.lock();
    if spare.is_none() {
        *spare =
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    }
}

/// Closes connections that wait in the listener's queue, `most` of them, by means of the descriptor that is
/// kept. Returns how many.
pub(super) fn turn_away(listener: &TcpListener, most: usize) -> usize {
    // Given up for as long as this takes; another thread may snatch it, then nobody is turned away.
    drop(SPARE.lock().take());
    let accept = || matches!(listener.accept().now_or_never(), Some(Ok(_closed)));
    let away = (0..most).take_while(|_| accept()).count();
    hold();
    away
}
