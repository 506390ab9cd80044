//! Listening sockets with every shared listen field, borrowed from the [`Vault`](crate::vault::Vault).
//!
//! A socket that is there already is lent as it is, so that the old instance of a component and its
//! successor accept from one queue. Options that can change on a bound socket are set when the new
//! instance takes over ([`Bound::tune`]). Multipath TCP cannot change: then there are two sockets on
//! one address for a moment (`takeover`).

mod legacy;
mod settings;
mod takeover;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use crosspoint_schema::options::ListenOptions;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tracing::info;

pub use legacy::SessionDefaults;
pub use settings::{KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, UDP_TIMEOUT, claims, deps, validate};

use self::{settings::Settings, takeover::Successor};
use crate::{
    BuildCx, BuildError,
    net::{netns, sockopt},
    session::Network,
    vault::Key,
};

/// The system cuts this to `net.core.somaxconn`, which is what Go asks for.
const BACKLOG: i32 = u16::MAX as i32;

/// [`Key::fixed`]: the socket speaks multipath TCP.
const MULTI_PATH: u32 = 1;

/// A listening socket on loan, and the options that it should have.
#[derive(Debug)]
pub struct Bound<T> {
    socket: Arc<T>,
    settings: Settings,
    network: Network,
    key: Key,
    /// The socket that takes over from `socket` when the instance does.
    successor: Option<Successor>,
}

impl<T> Deref for Bound<T> {
    type Target = Arc<T>;
    /// The socket at the address; until the instance takes over it may be its predecessor's.
    fn deref(&self) -> &Arc<T> {
        &self.socket
    }
}

impl<T: AsFd> Bound<T> {
    /// Sets the options that may change while the socket is bound. Called when the instance takes
    /// over, because until then the socket works for its predecessor.
    ///
    /// # Errors
    /// Missing privileges that appeared between build and now.
    pub fn tune(&self) -> io::Result<()> {
        self.settings.tune(&*self.socket, self.network)
    }

    /// How long a UDP association of this inbound may be idle (`udp_timeout`, 5 minutes by default).
    #[must_use]
    pub fn udp_timeout(&self) -> Duration {
        self.settings.udp_timeout
    }
}

impl Bound<TcpListener> {
    /// The listener to accept on, now that the instance takes over. [`serve::tcp`](crate::serve::tcp) calls it.
    ///
    /// # Errors
    /// Those of [`Bound::tune`]; somebody else listens at the address by now.
    pub fn activate(self, cx: &BuildCx) -> io::Result<Active> {
        let Self { socket, settings, network, key, successor } = self;
        let listener = match successor {
            Some(successor) => successor.take_over(&key, cx, settings.reuse)?,
            None => {
                settings.tune(&*socket, network)?;
                socket
            }
        };
        Ok(Active { listener, key })
    }
}

/// A listener that is accepted from.
#[derive(Clone, Debug)]
pub struct Active {
    listener: Arc<TcpListener>,
    key: Key,
}

impl Deref for Active {
    type Target = TcpListener;
    fn deref(&self) -> &TcpListener {
        &self.listener
    }
}

impl Active {
    /// How long an instance must go on accepting after it was told to stop: not at all, or, when another
    /// listener took over the address, until no connection can come here any more.
    #[must_use]
    pub fn linger(&self, cx: &BuildCx) -> Option<Duration> {
        takeover::is_leaving(&self.listener, &self.key, cx).then_some(takeover::LINGER)
    }
}

/// The TCP listener of these options.
///
/// # Errors
/// The address is in use or not ours, a missing privilege, a removed option, no such name space.
pub fn tcp_listener(
    options: &ListenOptions,
    cx: &BuildCx,
) -> Result<Bound<TcpListener>, BuildError> {
    let settings = Settings::new(options, false)?;
    let key = settings.key(cx, settings.multi_path);
    let mut successor = None;
    let socket = lend(cx, &settings, Network::Tcp, |fresh| {
        let bind = |old: Option<&TcpListener>| match settings.multi_path {
            true => match settings.listener(Protocol::MPTCP, old) {
                // As Go: where multipath is missing, plain TCP listens.
                Err(e) if unsupported(&e) => settings.listener(Protocol::TCP, old),
                result => result,
            },
            false => settings.listener(Protocol::TCP, old),
        };
        let known = cx.plane.vault.tcp(key.clone(), || Err(io::ErrorKind::NotFound.into()));
        match (known, takeover::other(cx, &key)) {
            (Ok(socket), _) => Ok(socket),
            (Err(_), Some(old)) => {
                *fresh = true;
                successor = Some(Successor::new(bind(Some(&old))?, old.clone()));
                Ok(old)
            }
            (Err(_), None) => cx.plane.vault.tcp(key.clone(), || {
                *fresh = true;
                TcpListener::from_std(bind(None)?.into())
            }),
        }
    })?;
    Ok(Bound { socket, settings, network: Network::Tcp, key, successor })
}

/// The UDP socket of these options. `udp_fragment` is the value where the option is not set: true for
/// inbounds on QUIC.
///
/// # Errors
/// Those of [`tcp_listener`].
pub fn udp_socket(
    options: &ListenOptions,
    cx: &BuildCx,
    udp_fragment: bool,
) -> Result<Bound<UdpSocket>, BuildError> {
    let settings = Settings::new(options, udp_fragment)?;
    let key = settings.key(cx, false);
    let socket = lend(cx, &settings, Network::Udp, |fresh| {
        cx.plane.vault.udp(key.clone(), || {
            *fresh = true;
            UdpSocket::from_std(settings.udp()?.into())
        })
    })?;
    Ok(Bound { socket, settings, network: Network::Udp, key, successor: None })
}

/// Borrows a socket; says so when it is new, and when it is not, makes sure that our options would be
/// accepted, so that a reload fails before anything is touched.
fn lend<T: LocalAddr>(
    cx: &BuildCx,
    settings: &Settings,
    network: Network,
    borrow: impl FnOnce(&mut bool) -> io::Result<Arc<T>>,
) -> Result<Arc<T>, BuildError> {
    let mut fresh = false;
    let wrap = |e| BuildError::io(format_args!("listen {network} {}", settings.addr), e);
    let socket = borrow(&mut fresh).map_err(wrap)?;
    if fresh {
        let addr = socket.local().unwrap_or(settings.addr);
        info!(component = %cx.me, "{network} server started at {addr}");
    } else {
        settings.rehearse(network).map_err(wrap)?;
    }
    Ok(socket)
}

trait LocalAddr {
    fn local(&self) -> io::Result<SocketAddr>;
}

impl LocalAddr for TcpListener {
    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl LocalAddr for UdpSocket {
    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl Settings {
    fn key(&self, cx: &BuildCx, multi_path: bool) -> Key {
        Key {
            addr: self.addr,
            netns: self.netns.clone(),
            owner: (self.addr.port() == 0).then(|| format!("{}/{}", cx.me.kind, cx.me.tag).into()),
            fixed: if multi_path { MULTI_PATH } else { 0 },
        }
    }

    fn open(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        netns::within(self.netns.as_deref(), || {
            Socket::new(domain, kind.nonblocking(), Some(protocol))
        })
    }

    /// A socket and the address to bind it to: `::` takes both families, and without IPv6 that one
    /// which is left.
    fn open_any(&self, kind: Type, protocol: Protocol) -> io::Result<(Socket, SocketAddr)> {
        match self.open(Domain::for_address(self.addr), kind, protocol) {
            Err(error)
                if self.addr.ip() == Ipv6Addr::UNSPECIFIED
                    && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
            {
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.addr.port()));
                Ok((self.open(Domain::IPV4, kind, protocol)?, any))
            }
            Err(error) => Err(error),
            Ok(socket) => {
                if self.addr.is_ipv6() {
                    socket.set_only_v6(false)?;
                }
                Ok((socket, self.addr))
            }
        }
    }

    /// A socket that listens; or one that is bound beside `old` and does not listen yet.
    fn listener(&self, protocol: Protocol, old: Option<&TcpListener>) -> io::Result<Socket> {
        let (socket, addr) = self.open_any(Type::STREAM, protocol)?;
        socket.set_reuse_address(true)?;
        self.tune(&socket, Network::Tcp)?;
        match old {
            Some(old) => takeover::bind_beside(&socket, old)?,
            None => {
                socket.bind(&addr.into())?;
                socket.listen(BACKLOG)?;
            }
        }
        Ok(socket)
    }

    /// A bound UDP socket.
    fn udp(&self) -> io::Result<Socket> {
        let (socket, addr) = self.open_any(Type::DGRAM, Protocol::UDP)?;
        socket.set_broadcast(true)?; // As every UDP socket of Go has it.
        self.tune(&socket, Network::Udp)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    }

    /// Tries the options on a socket of our own.
    fn rehearse(&self, network: Network) -> io::Result<()> {
        let socket = match network {
            Network::Tcp => self.open_any(Type::STREAM, Protocol::TCP)?.0,
            Network::Udp => self.open_any(Type::DGRAM, Protocol::UDP)?.0,
        };
        self.tune(&socket, network)
    }

    /// Sets what may change on a bound socket. Accepted sockets inherit the TCP options.
    fn tune(&self, fd: impl AsFd, network: Network) -> io::Result<()> {
        sockopt::bind_interface(&fd, self.interface.as_deref())?;
        sockopt::mark(&fd, self.mark)?;
        sockopt::reuse(&fd, self.reuse, network == Network::Tcp)?;
        match network {
            Network::Tcp => {
                sockopt::nodelay(&fd)?;
                sockopt::keep_alive(&fd, self.keep_alive)?;
                sockopt::fast_open(&fd, self.fast_open)
            }
            Network::Udp => sockopt::udp_fragment(&fd, self.udp_fragment),
        }
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPROTONOSUPPORT
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EINVAL
                | libc::EPERM
        )
    )
}
