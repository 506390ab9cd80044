//! The vault: listening sockets that outlive the components that use them.
//!
//! A component borrows a socket by address. While it lives, and while a successor warms up, both
//! hold the same socket, so that no connection is ever refused in between. A socket that nobody has
//! borrowed any more is closed by [`Vault::sweep`], which the supervisor calls after a commit and
//! never while a component is merely restarting.

use std::{
    any::Any,
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};

/// What identifies a listening socket: two borrowers with the same key share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Address as configured. With port 0, `owner` keeps the port of one component.
    pub addr: SocketAddr,
    /// Network name space, if not ours.
    pub netns: Option<Box<str>>,
    /// Set for port 0: the component whose port it is.
    pub owner: Option<Box<str>>,
    /// Options that cannot be changed on a bound socket (e.g. multipath TCP).
    pub fixed: u32,
}

/// Something of the system that would outlive the process: a routing rule, a table of the packet filter.
pub trait Trace: Send + Sync {
    /// Takes it away. Nothing happens if it is gone already.
    fn remove(&self);
}

/// Lends listening sockets.
#[derive(Default)]
pub struct Vault {
    tcp: Mutex<HashMap<Key, Arc<TcpListener>>>,
    udp: Mutex<HashMap<Key, Arc<UdpSocket>>>,
    /// What instances leave for those after them, by a name of their choice.
    left: Mutex<HashMap<Box<str>, Weak<dyn Any + Send + Sync>>>,
    traces: Mutex<Vec<Weak<dyn Trace>>>,
}

impl Vault {
    /// The TCP listener of that key; `bind` makes it when there is none yet.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn tcp(
        &self,
        key: Key,
        bind: impl FnOnce() -> io::Result<TcpListener>,
    ) -> io::Result<Arc<TcpListener>> {
        lend(&self.tcp, key, bind)
    }

    /// The UDP socket of that key; `bind` makes it when there is none yet.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn udp(
        &self,
        key: Key,
        bind: impl FnOnce() -> io::Result<UdpSocket>,
    ) -> io::Result<Arc<UdpSocket>> {
        lend(&self.udp, key, bind)
    }

    /// Leaves something that flows keep alive for a later instance of the same component. The vault itself
    /// does not keep it.
    pub fn leave<T: Any + Send + Sync>(&self, name: &str, what: Weak<T>) {
        let mut left = self.left.lock();
        left.retain(|_, what| what.strong_count() > 0);
        left.insert(name.into(), what);
    }

    /// What an earlier instance has left under that name, if it lives.
    pub fn left<T: Any + Send + Sync>(&self, name: &str) -> Option<Arc<T>> {
        let what = self.left.lock().get(name)?.upgrade()?;
        what.downcast().ok()
    }

    /// Remembers something that is to be taken away when the process ends, if it still is there. Then nobody is dropped
    /// any more.
    pub fn trace(&self, trace: Weak<dyn Trace>) {
        let mut traces = self.traces.lock();
        traces.retain(|trace| trace.strong_count() > 0);
        traces.push(trace);
    }

    /// Takes away all that was remembered.
    pub fn remove_traces(&self) {
        let traces = std::mem::take(&mut *self.traces.lock());
        for trace in traces.iter().filter_map(Weak::upgrade) {
            trace.remove();
        }
    }

    /// Closes sockets that only the vault holds. `keep` protects those of components that are being
    /// restarted. Returns how many were closed.
    pub fn sweep(&self, keep: impl Fn(&Key) -> bool) -> usize {
        fn sweep<T>(map: &Mutex<HashMap<Key, Arc<T>>>, keep: &impl Fn(&Key) -> bool) -> usize {
            let mut map = map.lock();
            let before = map.len();
            map.retain(|key, socket| Arc::strong_count(socket) > 1 || keep(key));
            before - map.len()
        }
        sweep(&self.tcp, &keep) + sweep(&self.udp, &keep)
    }

    /// Number of sockets held.
    pub fn len(&self) -> usize {
        self.tcp.lock().len() + self.udp.lock().len()
    }

    /// Whether no socket is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lend<T>(
    map: &Mutex<HashMap<Key, Arc<T>>>,
    key: Key,
    bind: impl FnOnce() -> io::Result<T>,
) -> io::Result<Arc<T>> {
    // The lock is held over `bind`, a few system calls, so that two components that want the same
    // address meet here and not at EADDRINUSE.
    let mut map = map.lock();
    if let Some(socket) = map.get(&key) {
        return Ok(socket.clone());
    }
    let socket = Arc::new(bind()?);
    map.insert(key, socket.clone());
    Ok(socket)
}
