//! The way to one DNS server.

use crosspoint_kernel::{
    BuildCx, BuildError, Tag,
    addr::Target,
    component::Dial,
    error::DialError,
    flow::{BoxPacketIo, BoxStream},
    net::dial::{Dialer, ResolverRule, Setup},
    resolve::{ExchangeError, Trail},
};
use crosspoint_schema::options::{DialOptions, DnsAddressOptions};
use tokio::net::UdpSocket;

/// What an old-style server says beyond its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Legacy {
    /// It was written in the old form.
    pub(crate) old: bool,
    /// No detour was written: the default outbound is one.
    pub(crate) default_outbound: bool,
}

/// How to reach one server.
pub(crate) struct Route {
    dialer: Dialer,
    target: Target,
    /// Sockets of our own lead there.
    direct: bool,
    /// The server, for logs.
    pub(crate) tag: Tag,
}

impl Route {
    pub(crate) fn new(
        dial: &DialOptions,
        address: &DnsAddressOptions,
        port: u16,
        legacy: Legacy,
        cx: &BuildCx,
    ) -> Result<Self, BuildError> {
        let setup = Setup {
            server: Some(&address.server),
            resolver: ResolverRule::Own,
            any_detour: legacy.old,
            default_outbound: legacy.default_outbound,
            ..Setup::default()
        };
        let port = if address.server_port == 0 { port } else { address.server_port };
        Ok(Self {
            dialer: Dialer::with(dial, cx, setup)?,
            target: Target::new(address.server.as_str(), port),
            direct: dial.detour.is_empty() && !legacy.default_outbound,
            tag: cx.me.tag.clone(),
        })
    }

    /// The server.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    fn dial<'a>(&'a self, trail: &'a Trail) -> Dial<'a> {
        Dial { trail, ..Dial::internal(&self.target) }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, trail: &Trail) -> Result<BoxStream, DialError> {
        self.dialer.connect(self.dial(trail)).await
    }

    /// A connected socket, where the way is that simple: an address, and no detour.
    pub(crate) async fn socket(&self) -> Option<Result<UdpSocket, DialError>> {
        let addr = self.target.socket_addr().filter(|_| self.direct)?;
        Some(self.dialer.udp_connect(addr).await)
    }

    /// An association with the server alone.
    pub(crate) async fn associate(&self, trail: &Trail) -> Result<BoxPacketIo, DialError> {
        self.dialer.associate_connected(self.dial(trail)).await
    }
}

/// An I/O error on the way to the server, with its address.
pub(crate) fn broken(route: &Route, what: &str, error: &std::io::Error) -> ExchangeError {
    let text = error.to_string();
    let bare = text.split(" (os error ").next().unwrap_or(&text);
    ExchangeError::failed(format_args!("{what} {}: {}", route.target, bare.to_lowercase()))
}
