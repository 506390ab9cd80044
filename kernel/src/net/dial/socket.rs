//! Making and connecting sockets as dial options say.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::{lazy::FastOpen, settings::Settings};
use crate::{
    error::DialError,
    flow::BoxStream,
    net::{dial_error, netns, protect, socket_error, sockopt},
    snapshot::RouteDefaults,
};

/// Idle time before the first keep-alive probe, and between probes (the reference's constants).
pub const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(75));

impl Settings {
    /// Opens a TCP connection, within `connect_timeout`.
    pub(super) async fn tcp(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
    ) -> Result<TcpStream, DialError> {
        if self.multi_path {
            match self.attempt(addr, defaults, Protocol::MPTCP).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(dial_error("tcp", addr, &error));
                }
                // Everything else that multipath TCP does not like is left to plain TCP, as in Go.
                Err(_) => {}
            }
        }
        self.attempt(addr, defaults, Protocol::TCP).await.map_err(|e| dial_error("tcp", addr, &e))
    }

    async fn attempt(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
        protocol: Protocol,
    ) -> io::Result<TcpStream> {
        let socket = self.tcp_socket(addr, defaults, protocol)?;
        if let Some(path) = &self.protect {
            protect::protect(path, socket.as_fd()).await?;
        }
        if start(&socket, self.scoped(addr)?)? {
            // On loopback the handshake is over when `connect` returns: no wait, no timer.
            return TcpStream::from_std(socket.into());
        }
        let stream = TcpStream::from_std(socket.into())?;
        tokio::time::timeout(self.timeout, stream.writable()).await??;
        match stream.take_error()? {
            None => Ok(stream),
            Some(error) => Err(error),
        }
    }

    /// Opens a TCP connection whose first bytes travel with the SYN where the server allows it.
    /// Returns without waiting for the server: errors come with the first write.
    pub(super) async fn tcp_lazy(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
    ) -> Result<BoxStream, DialError> {
        let work = async {
            let socket = match self.multi_path {
                true => self.fast_open_socket(addr, defaults, Protocol::MPTCP).ok(),
                false => None,
            };
            let socket = match socket {
                Some(socket) => socket,
                None => self.fast_open_socket(addr, defaults, Protocol::TCP)?,
            };
            if let Some(path) = &self.protect {
                protect::protect(path, socket.as_fd()).await?;
            }
            start(&socket, self.scoped(addr)?)?;
            TcpStream::from_std(socket.into())
        };
        let stream = work.await.map_err(|e: io::Error| dial_error("tcp", addr, &e))?;
        Ok(Box::new(FastOpen::new(stream, addr, self.timeout)))
    }

    fn fast_open_socket(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
        protocol: Protocol,
    ) -> io::Result<Socket> {
        let socket = self.tcp_socket(addr, defaults, protocol)?;
        match sockopt::set(&socket, sockopt::FASTOPEN_CONNECT, 1) {
            // Clients may not use it on this system (net.ipv4.tcp_fastopen): a plain lazy connect.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(socket),
            result => result.map(|()| socket),
        }
    }

    /// A socket that is ready to `connect`.
    pub(super) fn tcp_socket(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
        protocol: Protocol,
    ) -> io::Result<Socket> {
        let socket = self.open(Domain::for_address(addr), Type::STREAM, protocol)?;
        self.place(&socket, Some(addr.ip()), !virtual_address(addr.ip()), defaults)?;
        socket.set_tcp_nodelay(true)?;
        sockopt::keep_alive(&socket, Some(KEEP_ALIVE))?;
        let local = if addr.is_ipv4() { self.bind4 } else { self.bind6 };
        if let Some(local) = local {
            // An optimisation for many connections from one address; older systems lack it.
            let _ = sockopt::set(&socket, sockopt::BIND_NO_PORT, 1);
            socket.bind(&local.into())?;
        }
        Ok(socket)
    }

    /// A bound UDP socket for datagrams to `to` and to others of its family; where `to` is no address
    /// (a name, or the unspecified one), for both families.
    pub(super) async fn udp(
        &self,
        to: Option<IpAddr>,
        port: u16,
        defaults: &RouteDefaults,
    ) -> Result<UdpSocket, DialError> {
        let (local, domain) = match to.filter(|ip| !ip.is_unspecified()) {
            Some(IpAddr::V4(_)) => (self.bind4.unwrap_or(ANY4), Domain::IPV4),
            Some(IpAddr::V6(_)) => (self.bind6.unwrap_or(ANY6), Domain::IPV6),
            None => match self.bind4 {
                Some(local) => (local, Domain::IPV4),
                None => (ANY6, Domain::IPV6),
            },
        };
        let open = |domain| self.udp_socket(domain, to, true, defaults);
        let work = async {
            let (socket, local) = match open(domain) {
                // A kernel without IPv6.
                Err(e) if local == ANY6 && to.is_none() && no_family(&e) => {
                    (open(Domain::IPV4)?, ANY4)
                }
                result => (result?, local),
            };
            if let Some(path) = &self.protect {
                protect::protect(path, socket.as_fd()).await?;
            }
            socket.bind(&SocketAddr::new(local.ip(), port).into())?;
            UdpSocket::from_std(socket.into())
        };
        work.await.map_err(|e: io::Error| {
            socket_error(format_args!("listen udp {}:{port}", local.ip()), &e)
        })
    }

    /// A UDP socket that is connected to `addr`.
    pub(super) async fn udp_connected(
        &self,
        addr: SocketAddr,
        defaults: &RouteDefaults,
    ) -> Result<UdpSocket, DialError> {
        let work = async {
            let bound = !virtual_address(addr.ip());
            let socket =
                self.udp_socket(Domain::for_address(addr), Some(addr.ip()), bound, defaults)?;
            if let Some(path) = &self.protect {
                protect::protect(path, socket.as_fd()).await?;
            }
            if let Some(local) = if addr.is_ipv4() { self.bind4 } else { self.bind6 } {
                socket.bind(&local.into())?;
            }
            socket.connect(&self.scoped(addr)?.into())?;
            UdpSocket::from_std(socket.into())
        };
        work.await.map_err(|e: io::Error| dial_error("udp", addr, &e))
    }

    fn udp_socket(
        &self,
        domain: Domain,
        to: Option<IpAddr>,
        bound: bool,
        defaults: &RouteDefaults,
    ) -> io::Result<Socket> {
        let socket = self.open(domain, Type::DGRAM, Protocol::UDP)?;
        self.place(&socket, to, bound, defaults)?;
        socket.set_broadcast(true)?; // As every UDP socket of Go has it.
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if self.reuse {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
        }
        if !self.udp_fragment {
            sockopt::udp_fragment(&socket, false)?;
        }
        Ok(socket)
    }

    fn open(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        netns::within(self.netns.as_deref(), || {
            Socket::new(domain, kind.nonblocking(), Some(protocol))
        })
    }

    /// Chooses interface and firewall mark: own options first, then those of `route`.
    fn place(
        &self,
        socket: &Socket,
        to: Option<IpAddr>,
        bound: bool,
        defaults: &RouteDefaults,
    ) -> io::Result<()> {
        let placed = self.interface.is_some() || self.bind4.is_some() || self.bind6.is_some();
        if !bound {
            // Loopback and multicast belong to no interface that could be chosen.
        } else if let Some(name) = self.interface.as_deref().or(defaults.interface.as_deref()) {
            socket.bind_device(Some(name.as_bytes())).map_err(|e| on_interface(name, &e))?;
        } else if defaults.auto_detect_interface && !placed && self.netns.is_none() {
            let network = self.network.now();
            let (_, name) = network.toward(to).map_err(io::Error::other)?;
            socket.bind_device(Some(name.as_bytes())).map_err(|e| on_interface(name, &e))?;
        }
        match self.mark.or(defaults.mark) {
            Some(mark) => socket.set_mark(mark),
            None => Ok(()),
        }
    }
}

const ANY4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const ANY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// Starts to connect. Returns whether the connection stands already.
fn start(socket: &Socket, addr: SocketAddr) -> io::Result<bool> {
    match socket.connect(&SockAddr::from(addr)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether sockets to `ip` are bound to no interface.
fn virtual_address(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_multicast()
}

fn no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn on_interface(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("bind to interface {name}: {}", crate::net::os_text(error)),
    )
}
