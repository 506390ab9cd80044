//! Two listeners on one address for a moment, when multipath TCP is switched on or off.
//!
//! While the configuration is only being tried, the new socket is bound beside the old one
//! (`SO_REUSEPORT`) and does not listen. When the new instance takes over, it listens, and a filter leads
//! all connections to it. The old loop goes on accepting for a moment, because a listener that closes
//! resets what is in its queue.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use parking_lot::Mutex;
use socket2::{SockRef, Socket};
use tokio::net::TcpListener;

use super::{BACKLOG, MULTI_PATH};
use crate::{BuildCx, net::sockopt, vault::Key};

/// How long handshakes that began at the old listener may take to end up in its queue.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// The listener on the address of `key` that differs in what cannot change.
pub(super) fn other(cx: &BuildCx, key: &Key) -> Option<Arc<TcpListener>> {
    let other = Key { fixed: key.fixed ^ MULTI_PATH, ..key.clone() };
    cx.plane.vault.tcp(other, || Err(io::ErrorKind::NotFound.into())).ok()
}

/// Listeners from which somebody is about to take over, by address of the object.
static LEAVING: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// A socket that is bound and waits for its instance to take over from `old`.
#[derive(Debug)]
pub(super) struct Successor {
    socket: Socket,
    old: Arc<TcpListener>,
}

impl Drop for Successor {
    fn drop(&mut self) {
        let mut leaving = LEAVING.lock();
        if let Some(index) = leaving.iter().position(|at| *at == id(&self.old)) {
            leaving.swap_remove(index);
        }
    }
}

fn id(listener: &Arc<TcpListener>) -> usize {
    Arc::as_ptr(listener) as usize
}

/// Whether connections to `listener` will soon go, or go already, to another socket.
pub(super) fn is_leaving(listener: &Arc<TcpListener>, key: &Key, cx: &BuildCx) -> bool {
    LEAVING.lock().contains(&id(listener)) || other(cx, key).is_some()
}

/// Binds `socket` to the address of `old`, which goes on getting all connections.
pub(super) fn bind_beside(socket: &Socket, old: &TcpListener) -> io::Result<()> {
    let listener = SockRef::from(old);
    let shared = listener.reuse_port()?;
    listener.set_reuse_port(true)?;
    socket.set_reuse_port(true)?;
    let result = socket.bind(&old.local_addr()?.into());
    // Nobody else shall join meanwhile.
    listener.set_reuse_port(shared)?;
    result
}

impl Successor {
    /// Notes that `socket`, which is bound beside `old`, is going to take over.
    pub(super) fn new(socket: Socket, old: Arc<TcpListener>) -> Self {
        LEAVING.lock().push(id(&old));
        Self { socket, old }
    }

    /// Listens, leads all new connections here and puts the listener into the vault.
    pub(super) fn take_over(
        &self,
        key: &Key,
        cx: &BuildCx,
        reuse: bool,
    ) -> io::Result<Arc<TcpListener>> {
        SockRef::from(&*self.old).set_reuse_port(true)?;
        self.socket.set_reuse_port(true)?;
        self.socket.listen(BACKLOG)?;
        prefer_new(&self.socket, &*self.old)?;
        // Not earlier: a socket that does not listen is reported as hung up, and the runtime never
        // forgets that.
        let register = || TcpListener::from_std(self.socket.try_clone()?.into());
        let listener = cx.plane.vault.tcp(key.clone(), register)?;
        if !reuse {
            // The filter works for as long as the socket may be shared.
            let (listener, key, cx) = (Arc::downgrade(&listener), key.clone(), cx.clone());
            tokio::spawn(async move {
                tokio::time::sleep(2 * LINGER).await;
                if let Some(listener) = listener.upgrade()
                    && other(&cx, &key).is_none()
                {
                    // It stays open to processes of the same user otherwise, which is no harm.
                    let _ = sockopt::reuse(&*listener, false, true);
                }
            });
        }
        Ok(listener)
    }
}

/// One of the two speaks plain TCP and takes the filter, which is that of both. The old one came first.
fn prefer_new(new: impl AsFd, old: impl AsFd) -> io::Result<()> {
    const NEW: u32 = 1;
    sockopt::prefer(old, NEW).or_else(|_| sockopt::prefer(new, NEW))
}
