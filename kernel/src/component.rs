//! What a plugin builds: specs, components, and the context they are built in.

use std::{any::Any, fmt, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    BoxFuture, BuildError, Kind, Tag,
    addr::Target,
    error::DialError,
    flow::{BoxPacketIo, BoxStream, Flow},
    ledger::Entry,
    resolve::{DnsServer, NO_TRAIL, Trail},
    session::Session,
    snapshot::{Namespace, Plane},
    supervise::{Condition, Pulse},
    users::User,
};

/// One life of one component. Connections hold it, so that the kernel knows when the last one of
/// an old instance has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The role.
    pub kind: Kind,
    /// The protocol.
    pub type_name: &'static str,
    /// The name: the configured tag, or the index of an untagged component.
    pub tag: Tag,
    /// Counts instances of this component in this process, from 1.
    pub epoch: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}[{}]", self.kind.name(), self.type_name, self.tag)
    }
}

/// A tag that a component refers to, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dep {
    /// An outbound or endpoint that is dialled through.
    Outbound(Tag),
    /// A DNS server.
    DnsServer(Tag),
    /// An inbound that connections are handed to.
    Inbound(Tag),
    /// An inbound whose users are managed.
    Users(Tag),
    /// A service.
    Service(Tag),
}

/// Collects the tags that a component refers to.
#[derive(Debug, Default)]
pub struct Deps(pub Vec<Dep>);

/// Something that one component at a time can hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A TCP listening address (with the name space it is in, if any).
    TcpListen(std::net::SocketAddr, Option<Box<str>>),
    /// A bound UDP address (with the name space it is in, if any).
    UdpListen(std::net::SocketAddr, Option<Box<str>>),
    /// A network interface by name.
    Interface(Box<str>),
    /// A directory with state.
    Directory(PathBuf),
    /// Anything else, e.g. a key.
    Other(Box<str>),
}

impl Claim {
    /// Whether the old and the new instance may hold it at the same time, because the
    /// [`Vault`](crate::vault::Vault) lends it.
    pub fn lendable(&self) -> bool {
        matches!(self, Self::TcpListen(..) | Self::UdpListen(..))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpListen(addr, _) => write!(f, "TCP address {addr}"),
            Self::UdpListen(addr, _) => write!(f, "UDP address {addr}"),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Directory(path) => write!(f, "directory {}", path.display()),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Collects claims.
#[derive(Debug, Default)]
pub struct Claims(pub Vec<Claim>);

/// What a reload does with a component whose options differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that matters differs.
    Keep,
    /// The running instance can take the difference by message.
    Reconfigure,
    /// A new instance is needed.
    Replace,
}

/// Parsed, valid options of one component.
pub trait Spec: Any + fmt::Debug + Send + Sync {
    /// The options as `format` prints them, without `type` and `tag`; also the key that reload compares.
    fn canonical(&self) -> serde_json::Map<String, serde_json::Value>;
    /// Tags that this component refers to.
    fn deps(&self, _out: &mut Deps) {}
    /// What it holds exclusively.
    fn claims(&self, _out: &mut Claims) {}
    /// Whether it is a `direct` outbound without any option; see [`Outbound::is_empty_direct`].
    fn is_empty_direct(&self) -> bool {
        false
    }
    /// The detour of a DNS server, if it must not lead through an empty `direct` outbound.
    fn detour(&self) -> Option<&str> {
        None
    }
    /// Whether it is an inbound that takes users from services; its [`Control`] then has
    /// [`set_users`](Control::set_users).
    fn takes_users(&self) -> bool {
        false
    }
    /// What it takes to get from `self` to `next` (same kind, tag and type, different options).
    fn change(&self, _next: &dyn Spec) -> Change {
        Change::Replace
    }
    /// Builds an instance. All that can fail happens here; nothing is served until the component is
    /// committed and its `run` future is polled.
    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>>;
}

impl dyn Spec {
    /// The concrete spec, for [`Spec::change`] and [`Control::reconfigure`].
    pub fn downcast_ref<T: Spec>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What a component is built with.
#[derive(Clone)]
pub struct BuildCx {
    /// Who is being built.
    pub me: Arc<Incarnation>,
    /// Cancelled when this instance must stop accepting and working. Established flows live on.
    pub cancel: CancellationToken,
    /// Everything that outlives components.
    pub plane: Arc<Plane>,
    /// The slots of the generation that this instance is built for.
    pub names: Arc<Namespace>,
    /// Lets a worker loop prove that it is alive.
    pub pulse: Pulse,
    /// Lets the instance say that something is missing.
    pub condition: Condition,
}

/// Ends a component's work; the supervisor restarts it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// A built instance.
#[derive(Default)]
pub struct Component {
    /// Dials through it.
    pub outbound: Option<Arc<dyn Outbound>>,
    /// Takes connections that another component hands over.
    pub inject: Option<Arc<dyn Inject>>,
    /// Answers name queries.
    pub dns: Option<Arc<dyn DnsServer>>,
    /// Takes changed options by message.
    pub control: Option<Box<dyn Control>>,
    /// The work of the instance, started at commit; when it ends, the component has failed.
    /// `None` for components that only react.
    pub run: Option<BoxFuture<'static, Result<(), Fault>>>,
}

/// Takes changed options while the component runs.
pub trait Control: Send + 'static {
    /// Applies `next`, for which [`Spec::change`] said [`Change::Reconfigure`]. Must not fail: what
    /// can fail is a [`Change::Replace`].
    fn reconfigure(&mut self, next: Arc<dyn Spec>);

    /// Whether the inbound can have this managed user.
    ///
    /// # Errors
    /// What is wrong with it, in words for an operator.
    fn check_user(&self, _user: &User) -> Result<(), String> {
        Err("the inbound takes no users".to_owned())
    }

    /// Puts managed users in force, in place of those before: the ones of [`Roll::users`](crate::users::Roll::users)
    /// when it was built. Configured users stay. Ends the flows of those that are gone or have another secret, and
    /// nobody else's. One that cannot be had (it was checked, but perhaps by an instance with other options) is left
    /// out with a line in the log.
    fn set_users(&mut self, _users: &[User]) {}
}

/// One dial: for which session, to where, and through how many outbounds it has come.
#[derive(Clone, Copy)]
pub struct Dial<'a> {
    /// The session that asks; `None` for dials of our own (DNS, urltest, services).
    pub session: Option<&'a Session>,
    /// Where to.
    pub target: &'a Target,
    /// Where the connection is accounted.
    pub entry: Option<&'a Entry>,
    /// Outbounds passed so far; [`Slot`](crate::slot::Slot) refuses more than
    /// [`MAX_HOPS`](crate::slot::MAX_HOPS).
    pub hops: u8,
    /// DNS servers that are being asked on the way to this dial.
    pub trail: &'a Trail,
}

impl<'a> Dial<'a> {
    /// A dial that belongs to no client.
    pub fn internal(target: &'a Target) -> Self {
        Self { session: None, target, entry: None, hops: 0, trail: &NO_TRAIL }
    }

    /// The same dial to another destination.
    pub fn to<'b>(self, target: &'b Target) -> Dial<'b>
    where
        'a: 'b,
    {
        Dial { target, ..self }
    }
}

/// Opens connections.
pub trait Outbound: Send + Sync + 'static {
    /// Opens a stream to `dial.target`.
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>>;

    /// Opens a datagram association; `dial.target` is the first destination, packets name their own.
    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>>;

    /// Whether it carries that network at all (groups and `network` options).
    fn supports(&self, _network: crate::session::Network) -> bool {
        true
    }

    /// Whether this is a `direct` outbound without any option: a detour through it says nothing, and
    /// is refused at dial time as in the reference.
    fn is_empty_direct(&self) -> bool {
        false
    }

    /// The group face, if this outbound chooses among others.
    fn group(&self) -> Option<&dyn Group> {
        None
    }

    /// Whether it dials the addresses that a `resolve` action found by itself, or leaves that to its members. Any
    /// other is asked for one address after the other instead of the name.
    fn dials_resolved(&self) -> bool {
        self.group().is_some()
    }
}

/// An outbound that chooses among members.
pub trait Group: Send + Sync {
    /// The members' tags, in configuration order.
    fn members(&self) -> Vec<Tag>;
    /// The member in use.
    fn selected(&self) -> Option<Tag>;
    /// Chooses a member. Returns false when there is no such member or the group chooses by itself.
    fn select(&self, tag: &str) -> bool;
}

/// A connection on its way: what it is, its bytes, and the right to exist.
pub struct Conn {
    /// What is known of it.
    pub session: Box<Session>,
    /// Its bytes or packets.
    pub flow: Flow,
    /// Counts it against the connection limit until it ends.
    pub permit: tokio::sync::OwnedSemaphorePermit,
}

/// Takes connections that another component hands over by message (listen field `detour`).
pub trait Inject: Send + Sync + 'static {
    /// Takes the connection, or gives it back when the component cannot take that kind of flow.
    fn inject(&self, conn: Conn) -> Result<(), Conn>;
}
