//! Dialers: connections with every shared dial field.
//!
//! `detour` makes all other fields ineffective, except `domain_resolver`. On this platform
//! `network_strategy`, `network_type` and `fallback_network_type` are checked and without effect, as in
//! the reference without a graphical client.

mod eyeballs;
mod lazy;
mod names;
mod packets;
mod settings;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crosspoint_schema::options::DialOptions;
use tokio::net::{TcpStream, UdpSocket};

use self::{names::Names, settings::Settings};
pub use self::{
    settings::{CONNECT_TIMEOUT, FALLBACK_DELAY, ResolverRule, Setup, deps, strategy, validate},
    socket::KEEP_ALIVE,
};
use crate::{
    BuildCx, BuildError, Kind,
    addr::Host,
    component::{Dial, Outbound},
    error::{DialClass, DialError, Side},
    flow::BoxStream,
    slot::Slot,
    snapshot::Plane,
};

/// Opens connections as the dial fields of one component say.
pub struct Dialer {
    plane: Arc<Plane>,
    names: Arc<Names>,
    via: Via,
    /// Names are resolved here and not by the detour.
    resolves: bool,
    fallback_delay: Option<Duration>,
}

enum Via {
    Sockets(Settings),
    Detour {
        slot: Arc<Slot<dyn Outbound>>,
        /// Even through an outbound that adds nothing.
        any: bool,
    },
    /// The outbound that is the default at the moment of a dial.
    Default,
}

impl Dialer {
    /// A dialer for something that is not a server with a configured address.
    ///
    /// # Errors
    /// Those of [`Dialer::with`].
    pub fn new(options: &DialOptions, cx: &BuildCx) -> Result<Self, BuildError> {
        Self::with(options, cx, Setup::default())
    }

    /// A dialer, with what the options do not tell.
    ///
    /// # Errors
    /// Conflicting options, a detour or resolver that does not exist, a missing resolver.
    pub fn with(options: &DialOptions, cx: &BuildCx, setup: Setup<'_>) -> Result<Self, BuildError> {
        validate(options)?;
        let own = settings::resolver(options, cx, &setup)?;
        let via = if !options.detour.is_empty() {
            let slot = cx.names.outbounds.get(options.detour.as_str());
            let slot = slot.cloned().ok_or_else(|| {
                BuildError::options(format_args!("outbound detour not found: {}", options.detour))
            })?;
            Via::Detour { slot, any: setup.any_detour }
        } else if setup.default_outbound {
            Via::Default
        } else {
            Via::Sockets(Settings::new(options, &setup, cx.plane.network.clone())?)
        };
        let resolves =
            matches!(via, Via::Sockets(_)) || setup.resolve_before_detour || own.is_some();
        Ok(Self {
            plane: cx.plane.clone(),
            names: Arc::new(Names {
                own,
                legacy: settings::legacy_strategy(options),
                rule: setup.resolver,
                outbound: matches!(cx.me.kind, Kind::Outbound | Kind::Endpoint)
                    .then(|| cx.me.tag.clone()),
            }),
            via,
            resolves,
            fallback_delay: (!options.fallback_delay.is_zero())
                .then(|| options.fallback_delay.get()),
        })
    }

    /// Opens a stream to `dial.target`.
    ///
    /// # Errors
    /// What the system, the resolver or the detour say; socket errors name the address.
    pub async fn connect(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        match &dial.target.host {
            Host::Ip(ip) => self.stream(dial, SocketAddr::new(*ip, dial.target.port)).await,
            // Boxed: connections to addresses should not carry the state of lookups and races.
            Host::Name(name) => Box::pin(self.connect_name(dial, name)).await,
        }
    }

    async fn connect_name(&self, dial: Dial<'_>, name: &str) -> Result<BoxStream, DialError> {
        if !self.resolves
            && let Some(slot) = self.detour()?
        {
            return slot.connect(dial).await;
        }
        let addresses = self.addresses(dial, name).await?;
        let connect = |ip| self.stream(dial, SocketAddr::new(ip, dial.target.port));
        match &self.via {
            // A lazy connect succeeds at once, and a detour knows best how to hurry.
            Via::Sockets(settings) if settings.fast_open => {
                eyeballs::serial(&addresses, &connect).await
            }
            Via::Detour { .. } => eyeballs::serial(&addresses, &connect).await,
            Via::Sockets(_) | Via::Default => {
                eyeballs::parallel(&addresses, self.delay(dial), connect).await
            }
        }
    }

    async fn stream(&self, dial: Dial<'_>, addr: SocketAddr) -> Result<BoxStream, DialError> {
        if let Some(slot) = self.detour()? {
            return slot.connect(dial.to(&addr.into())).await;
        }
        match &self.via {
            Via::Sockets(settings) if settings.fast_open => {
                let snapshot = self.plane.snapshot.load_full();
                settings.tcp_lazy(addr, &snapshot.defaults).await
            }
            _ => Ok(Box::new(self.tcp(addr).await?)),
        }
    }

    /// Opens a TCP connection to an address, for protocols that need the socket itself.
    ///
    /// # Errors
    /// [`DialClass::Unsupported`] with a `detour`, else what the system says.
    pub async fn tcp(&self, addr: SocketAddr) -> Result<TcpStream, DialError> {
        let settings = self.sockets()?;
        let snapshot = self.plane.snapshot.load_full();
        settings.tcp(canonical(addr), &snapshot.defaults).await
    }

    /// A UDP socket that is connected to `addr`.
    ///
    /// # Errors
    /// [`DialClass::Unsupported`] with a `detour`, else what the system says.
    pub async fn udp_connect(&self, addr: SocketAddr) -> Result<UdpSocket, DialError> {
        let settings = self.sockets()?;
        let snapshot = self.plane.snapshot.load_full();
        settings.udp_connected(canonical(addr), &snapshot.defaults).await
    }

    /// A UDP socket for `to` and others of its family; for both families without `to`.
    ///
    /// # Errors
    /// [`DialClass::Unsupported`] with a `detour`, else what the system says.
    pub async fn udp_bind(&self, to: Option<IpAddr>) -> Result<UdpSocket, DialError> {
        let settings = self.sockets()?;
        let snapshot = self.plane.snapshot.load_full();
        settings.udp(to.map(|ip| ip.to_canonical()), 0, &snapshot.defaults).await
    }

    /// A UDP socket for peers of both families that listens on that port; 0 takes any.
    ///
    /// # Errors
    /// As [`Dialer::udp_bind`].
    pub async fn udp_listen(&self, port: u16) -> Result<UdpSocket, DialError> {
        let settings = self.sockets()?;
        let snapshot = self.plane.snapshot.load_full();
        settings.udp(None, port, &snapshot.defaults).await
    }

    /// The addresses of `name`: those that a `resolve` action found for this very destination, else
    /// those that our resolver finds.
    ///
    /// # Errors
    /// Those of the resolver.
    pub async fn addresses(&self, dial: Dial<'_>, name: &str) -> Result<Vec<IpAddr>, DialError> {
        match dial.session {
            Some(session)
                if !session.resolved.is_empty() && session.target.host.name() == Some(name) =>
            {
                Ok(session.resolved.clone())
            }
            _ => self.names.lookup(&self.plane, name, dial.session, dial.trail).await,
        }
    }

    fn delay(&self, dial: Dial<'_>) -> Duration {
        dial.session
            .and_then(|session| session.dial.fallback_delay)
            .or(self.fallback_delay)
            .or_else(|| self.plane.snapshot.load().defaults.fallback_delay)
            .unwrap_or(FALLBACK_DELAY)
    }

    fn sockets(&self) -> Result<&Settings, DialError> {
        match &self.via {
            Via::Sockets(settings) => Ok(settings),
            Via::Detour { slot, .. } => Err(DialError::unsupported(format_args!(
                "no socket of our own behind detour [{}]",
                slot.tag
            ))),
            Via::Default => {
                Err(DialError::unsupported("no socket of our own behind the default outbound"))
            }
        }
    }

    /// The outbound that is dialled through, if any; an error if a detour through it makes no sense.
    fn detour(&self) -> Result<Option<Arc<Slot<dyn Outbound>>>, DialError> {
        match &self.via {
            Via::Sockets(_) => Ok(None),
            Via::Default => {
                let snapshot = self.plane.snapshot.load();
                snapshot.names.default_outbound.clone().map(Some).ok_or_else(|| {
                    DialError::new(DialClass::Down, Side::Local, "no default outbound yet")
                })
            }
            Via::Detour { slot, any: false }
                if slot.now().is_some_and(|instance| instance.face.is_empty_direct()) =>
            {
                Err(DialError::new(DialClass::Other, Side::Local, EMPTY_DETOUR))
            }
            Via::Detour { slot, .. } => Ok(Some(slot.clone())),
        }
    }
}

/// What the reference says of a detour through an outbound that adds nothing.
pub(crate) const EMPTY_DETOUR: &str = "detour to an empty direct outbound makes no sense";

fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(addr.ip().to_canonical(), addr.port())
        }
        addr => addr,
    }
}
