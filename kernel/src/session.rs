//! What is known of one connection while it is set up.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Tag, addr::Target, component::Incarnation};

/// The transport that a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// A byte stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The process that opened a connection, as far as it could be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Path of the executable.
    pub path: Option<Box<str>>,
    /// Name of the user that owns the socket.
    pub user: Option<Box<str>>,
    /// Numeric owner of the socket.
    pub uid: Option<u32>,
}

/// How datagrams of a session are relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpPolicy {
    /// Idle time after which the association ends; `None` takes the default of the protocol.
    pub timeout: Option<Duration>,
    /// Dial a connected socket: replies come from the dialled address only.
    pub connect: bool,
    /// Answer with the address that replied, not with the name that the client had asked for.
    pub disable_domain_unmapping: bool,
}

/// Options that rules set for the dialer of the chosen outbound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialPolicy {
    /// Happy-eyeballs delay; `None` takes the dialer's own.
    pub fallback_delay: Option<Duration>,
    /// Split the TLS ClientHello over TCP segments.
    pub tls_fragment: bool,
    /// Wait between segments where acknowledgements cannot be seen.
    pub tls_fragment_fallback_delay: Option<Duration>,
    /// Split the TLS ClientHello over TLS records.
    pub tls_record_fragment: bool,
}

/// Listen fields of old configurations that act as rules in front of the route rules: a `sniff`, then a
/// `resolve` action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyInbound {
    /// Sniff the protocol.
    pub sniff: bool,
    /// Connect to the sniffed domain.
    pub sniff_override_destination: bool,
    /// How long to sniff; `None` takes the default.
    pub sniff_timeout: Option<Duration>,
    /// Resolve the destination, for these address families; `None` does not resolve.
    pub domain_strategy: Option<crate::resolve::Strategy>,
}

/// What became of a user between the moment that let a connection in and the one at which it stands in the ledger.
pub trait Standing: fmt::Debug + Send + Sync {
    /// Whether the user may still have flows that were let in then.
    fn holds(&self, user: Option<&str>) -> bool;
}

/// One connection: who opened it, where it wants to go, and what rules said about it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Number of the connection, unique in this process (shown in logs and by `ctl connections`).
    pub id: u64,
    /// The inbound (or endpoint) instance that accepted it.
    pub inbound: Arc<Incarnation>,
    /// Stream or datagrams.
    pub network: Network,
    /// The client's address.
    pub source: SocketAddr,
    /// Where the client wants to go; rules may override it.
    pub target: Target,
    /// The authenticated user.
    pub user: Option<Arc<str>>,
    /// Asked once the connection stands in the ledger: who revokes a user finds only what stands there.
    pub standing: Option<Arc<dyn Standing>>,
    /// Sniffed protocol, e.g. `tls`.
    pub protocol: Option<&'static str>,
    /// Sniffed client, e.g. `chromium` or an SSH version.
    pub client: Option<Box<str>>,
    /// Sniffed domain.
    pub domain: Option<Box<str>>,
    /// Addresses that a `resolve` action found for the target.
    pub resolved: Vec<IpAddr>,
    /// The process that opened the connection, once a rule needed it.
    pub process: Option<Box<Process>>,
    /// Inbound to hand the connection to before routing (the legacy `detour` listen field).
    pub detour: Option<Tag>,
    /// Old listen fields that the router treats as rules in front of its own.
    pub legacy: Option<Arc<LegacyInbound>>,
    /// Relay policy for datagrams.
    pub udp: UdpPolicy,
    /// Options for the dialer.
    pub dial: DialPolicy,
    /// When the connection was accepted.
    pub started: Instant,
}

impl Session {
    /// A session as an inbound starts it; the rest is filled in by handshake and rules.
    pub fn new(
        id: u64,
        inbound: Arc<Incarnation>,
        network: Network,
        source: SocketAddr,
        target: Target,
    ) -> Box<Self> {
        Box::new(Self {
            id,
            inbound,
            network,
            source: SocketAddr::new(source.ip().to_canonical(), source.port()),
            target,
            user: None,
            standing: None,
            protocol: None,
            client: None,
            domain: None,
            resolved: Vec::new(),
            process: None,
            detour: None,
            legacy: None,
            udp: UdpPolicy::default(),
            dial: DialPolicy::default(),
            started: Instant::now(),
        })
    }
}
