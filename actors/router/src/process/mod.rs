//! Which process opened a connection, on Linux.
//!
//! The kernel is asked for the socket that has the client's address (`sock_diag`, and `/proc/net` where
//! that is not allowed), which gives its owner and inode; the process is the one that has the inode among its
//! descriptors. Only clients on this machine can be found, and only processes whose `/proc` entry
//! this process may read.
//!
//! A search makes some hundred system calls, so it runs on a blocking thread, a few at a time.

mod diag;
mod owner;
mod procfs;
mod users;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
};

use crosspoint_kernel::session::{Network, Process};
use tokio::sync::Semaphore;

/// Searches that run at the same time.
const PARALLEL: usize = 4;

/// Why no process was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The client is on another machine.
    #[error("source is not local")]
    Remote,
    /// No socket with that address, in any table.
    #[error("socket not found")]
    NoSocket,
    /// The kernel did not answer.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The search ended in an unexpected way.
    #[error("process search ended early")]
    Ended,
}

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    inode: u64,
    uid: u32,
}

/// Finds processes. One serves all generations of the configuration: it remembers who was found.
#[derive(Clone)]
pub struct Finder {
    shared: Arc<Shared>,
}

struct Shared {
    turns: Semaphore,
    owners: owner::Owners,
    users: users::Users,
}

impl Default for Finder {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                turns: Semaphore::new(PARALLEL),
                owners: owner::Owners::default(),
                users: users::Users::default(),
            }),
        }
    }
}

impl Finder {
    /// The one that all generations of the configuration share.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Finder> = OnceLock::new();
        GLOBAL.get_or_init(Self::default)
    }

    /// The process behind the client socket `source`. `here` is our end of its connection, where
    /// known: it makes the lookup exact and cheap.
    ///
    /// # Errors
    /// When the socket is not found. A socket whose process cannot be seen still gives its owner.
    pub async fn find(
        &self,
        network: Network,
        source: SocketAddr,
        here: Option<SocketAddr>,
    ) -> Result<Process, FindError> {
        if !is_local(source.ip().to_canonical()) {
            return Err(FindError::Remote);
        }
        let _turn = self.shared.turns.acquire().await.map_err(|_| FindError::Ended)?;
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.find(network, source, here))
            .await
            .map_err(|_| FindError::Ended)?
    }
}

impl Shared {
    fn find(
        &self,
        network: Network,
        source: SocketAddr,
        here: Option<SocketAddr>,
    ) -> Result<Process, FindError> {
        let source = canonical(source);
        let socket = match diag::find(network, source, here.map(canonical)) {
            Ok(Some(socket)) => socket,
            Ok(None) => return Err(FindError::NoSocket),
            Err(error) => match procfs::find(network, source) {
                Some(socket) => socket,
                None if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(FindError::NoSocket);
                }
                None => return Err(error.into()),
            },
        };
        let path = self.owners.path(socket.inode, socket.uid);
        Ok(Process {
            path: path.map(|path| path.to_string_lossy().into()),
            user: self.users.name(socket.uid),
            uid: Some(socket.uid),
        })
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether an address is one of this machine: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Picks the socket that `source` belongs to: one bound to just that address, else one bound to all.
fn best(sockets: impl IntoIterator<Item = Socket>, source: SocketAddr) -> Option<Socket> {
    let mut wildcard = None;
    for socket in sockets {
        if socket.inode == 0 || socket.local.port() != source.port() {
            continue;
        }
        let ip = socket.local.ip().to_canonical();
        if ip == source.ip() {
            return Some(socket);
        }
        // A socket bound to `::` sends IPv4 as well, one bound to 0.0.0.0 never IPv6.
        if ip.is_unspecified() && (ip.is_ipv6() || source.is_ipv4()) {
            wildcard = Some(socket);
        }
    }
    wildcard
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    async fn check(network: Network, source: SocketAddr, here: Option<SocketAddr>) {
        let process = Finder::default().find(network, source, here).await.unwrap();
        let me = std::env::current_exe().unwrap();
        assert_eq!(process.path.as_deref(), me.to_str());
        assert_eq!(process.uid, Some(rustix::process::geteuid().as_raw()));
    }

    #[tokio::test]
    async fn finds_this_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let source = client.local_addr().unwrap();
        check(Network::Tcp, source, None).await;
        check(Network::Tcp, source, Some(listener.local_addr().unwrap())).await;
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        check(Network::Udp, udp.local_addr().unwrap(), None).await;
        let any = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = any.local_addr().unwrap().port();
        check(Network::Udp, SocketAddr::from(([127, 0, 0, 1], port)), None).await;
    }

    #[tokio::test]
    async fn finds_dual_stack_sockets() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mapped = SocketAddr::new(
            IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
            listener.local_addr().unwrap().port(),
        );
        let Ok(client) = TcpStream::connect(mapped) else { return };
        let source = canonical(client.local_addr().unwrap());
        assert!(source.is_ipv4());
        check(Network::Tcp, source, None).await;
    }

    #[tokio::test]
    async fn strangers_are_not_found() {
        let finder = Finder::default();
        let far = finder.find(Network::Tcp, "192.0.2.1:5".parse().unwrap(), None).await;
        assert!(matches!(far, Err(FindError::Remote)), "{far:?}");
        let none = finder.find(Network::Tcp, "127.0.0.1:1".parse().unwrap(), None).await;
        assert!(matches!(none, Err(FindError::NoSocket)), "{none:?}");
    }

    #[test]
    fn an_exact_address_wins() {
        let socket = |local: &str, inode| Socket { local: local.parse().unwrap(), inode, uid: 0 };
        let all = [
            socket("0.0.0.0:5", 1),
            socket("127.0.0.1:5", 2),
            socket("127.0.0.2:5", 3),
            socket("127.0.0.1:5", 0),
        ];
        assert_eq!(best(all, "127.0.0.1:5".parse().unwrap()).unwrap().inode, 2);
        assert_eq!(best(all, "127.0.0.9:5".parse().unwrap()).unwrap().inode, 1);
        assert!(best(all, "[::1]:5".parse().unwrap()).is_none());
    }
}
