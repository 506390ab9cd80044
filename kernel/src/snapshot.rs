//! What connections read: one immutable picture of the configuration in force.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use crosspoint_schema::decode::Prefix;

use crate::{
    BoxFuture, Tag,
    component::{Inject, Outbound},
    flow::Flow,
    ledger::Ledger,
    net::monitor::Network,
    resolve::{DnsServer, Lookup, Resolve, ResolveError},
    session::Session,
    slot::Slot,
    state::SharedState,
    users::{ManagedUsers, Rolls},
    vault::Vault,
};

/// Every tag of one generation, bound late to instances.
#[derive(Debug, Default)]
pub struct Namespace {
    /// Outbounds and the outbound faces of endpoints (one name space, as in the reference).
    pub outbounds: HashMap<Tag, Arc<Slot<dyn Outbound>>>,
    /// Inbounds that take connections from others.
    pub injects: HashMap<Tag, Arc<Slot<dyn Inject>>>,
    /// Inbounds that take users from services.
    pub users: HashMap<Tag, Arc<Slot<dyn ManagedUsers>>>,
    /// DNS servers.
    pub dns: HashMap<Tag, Arc<Slot<dyn DnsServer>>>,
    /// Where connections go that no rule decides, and dials that name no outbound.
    pub default_outbound: Option<Arc<Slot<dyn Outbound>>>,
    /// What a restart should not forget.
    pub state: SharedState,
}

/// Dial settings of the `route` object that every dialer falls back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDefaults {
    /// `route.auto_detect_interface`.
    pub auto_detect_interface: bool,
    /// `route.default_interface`.
    pub interface: Option<Box<str>>,
    /// `route.default_mark`.
    pub mark: Option<u32>,
    /// `route.default_fallback_delay`.
    pub fallback_delay: Option<Duration>,
    /// `route.default_domain_resolver`.
    pub domain_resolver: Option<DomainResolver>,
}

/// Which DNS server resolves the names that a dialer meets, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainResolver {
    /// Tag of the DNS server.
    pub server: Tag,
    /// Strategy; `None` takes the default.
    pub strategy: Option<crate::resolve::Strategy>,
    /// Bypass the cache.
    pub disable_cache: bool,
    /// Keep answers for this many seconds.
    pub rewrite_ttl: Option<u32>,
    /// Send this client subnet.
    pub client_subnet: Option<Prefix>,
}

/// One generation of the configuration, as connections see it.
#[derive(Clone)]
pub struct Snapshot {
    /// Counts committed configurations, from 1. 0 is the empty snapshot before the first.
    pub generation: u64,
    /// Rules.
    pub routes: Arc<dyn RouteTable>,
    /// Slots.
    pub names: Arc<Namespace>,
    /// The resolver.
    pub resolver: Arc<dyn Resolve>,
    /// Fallbacks of every dialer.
    pub defaults: RouteDefaults,
}

impl Snapshot {
    /// The picture before the first commit: no names, every connection is refused, no name can be looked up. Also
    /// what tests start from.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            routes: Arc::new(Nothing),
            names: Arc::default(),
            resolver: Arc::new(Nothing),
            defaults: RouteDefaults::default(),
        }
    }
}

/// Rules and resolver of [`Snapshot::empty`].
struct Nothing;

impl RouteTable for Nothing {
    fn route<'a>(
        &'a self,
        _: &'a mut Session,
        _: &'a mut Flow,
        _: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Decision, RouteError>> {
        Box::pin(std::future::ready(Ok(Decision::Reject(Reject::Refuse))))
    }

    fn pre_match(&self, _: &mut Session, _: &Snapshot) -> PreMatch {
        PreMatch::Reject(Reject::Refuse)
    }
}

impl Resolve for Nothing {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        // Nobody knows yet whether there is such a host.
        let message = "no configuration is in force yet".into();
        let error = ResolveError::Failed { name: lookup.name.into(), message };
        Box::pin(std::future::ready(Err(error)))
    }
}

/// What a route table decided.
#[derive(Debug)]
pub enum Decision {
    /// Dial through this outbound.
    Outbound(Arc<Slot<dyn Outbound>>),
    /// Let the resolver answer the DNS queries in it.
    HijackDns,
    /// Refuse.
    Reject(Reject),
}

/// How a rejected flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// TCP reset or ICMP port unreachable, as far as the inbound can express it.
    Refuse,
    /// Nothing is answered.
    Drop,
}

/// What can be decided before a connection is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreMatch {
    /// Accept it, and route it then.
    Accept,
    /// A rule rejects it already.
    Reject(Reject),
}

/// A routing failure; the connection is closed with it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct RouteError(pub String);

/// Rules, compiled for one generation.
pub trait RouteTable: Send + Sync + 'static {
    /// Runs the rules for one connection: may read (and give back) bytes of `flow` to sniff, may
    /// resolve names, and may change the session as rule actions say.
    fn route<'a>(
        &'a self,
        session: &'a mut Session,
        flow: &'a mut Flow,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Decision, RouteError>>;

    /// Decides what can be decided before accept (TUN, WireGuard, Tailscale): stops at the first
    /// `sniff`, and only `reject` counts (parity/semantics.md §5.2).
    fn pre_match(&self, session: &mut Session, snapshot: &Snapshot) -> PreMatch;
}

/// What survives every component: owned by the root, shared by all.
pub struct Plane {
    /// The generation in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Listening sockets.
    pub vault: Vault,
    /// Live connections.
    pub ledger: Ledger,
    /// Users of inbounds that services manage.
    pub users: Rolls,
    /// Interfaces and default routes of this machine.
    pub network: Network,
}

impl Plane {
    /// A plane with that picture and nothing else.
    pub fn new(snapshot: Snapshot) -> Self {
        let users = Rolls::default();
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            vault: Vault::default(),
            ledger: Ledger::new(users.clone()),
            users,
            network: Network::default(),
        }
    }

    /// The state in force.
    pub fn state(&self) -> SharedState {
        self.snapshot.load().names.state.clone()
    }

    /// The resolver in force.
    pub fn resolver(&self) -> Arc<dyn Resolve> {
        self.snapshot.load().resolver.clone()
    }
}
