use std::sync::atomic::{AtomicU32, Ordering};

use crosspoint_kernel::{
    component::Incarnation,
    flow::Flow,
    net::monitor::Interface,
    resolve::{DnsServer, ExchangeError, Lookup, Query, Resolve, ResolveError},
    session::Session,
    slot::Slot,
    snapshot::{
        Decision, Namespace, PreMatch, Reject, RouteDefaults, RouteError, RouteTable, Snapshot,
    },
};

use super::*;

struct Nothing;

impl RouteTable for Nothing {
    fn route<'a>(
        &'a self,
        _: &'a mut Session,
        _: &'a mut Flow,
        _: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Decision, RouteError>> {
        Box::pin(async { Ok(Decision::Reject(Reject::Refuse)) })
    }
    fn pre_match(&self, _: &mut Session, _: &Snapshot) -> PreMatch {
        PreMatch::Accept
    }
}

impl Resolve for Nothing {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<std::net::IpAddr>, ResolveError>> {
        Box::pin(async move { Err(ResolveError::NotFound { name: lookup.name.into() }) })
    }
}

/// Counts how often it was told to let go.
#[derive(Default)]
struct Server(AtomicU32);

impl DnsServer for Server {
    fn exchange<'a>(&'a self, _: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async { Err(ExchangeError::failed("no")) })
    }
    fn reset(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn state(default: Option<u32>, others: u32) -> NetworkState {
    let interface = |index: u32| Interface {
        index,
        name: format!("eth{index}").into(),
        up: true,
        addresses: Vec::new(),
    };
    let default4 = default.map(|index| DefaultRoute { index, name: interface(index).name });
    NetworkState { interfaces: (1..=others).map(interface).collect(), default4, default6: None }
}

#[tokio::test]
async fn dns_servers_let_go_when_the_way_changes() {
    let server = Arc::new(Server::default());
    let slot: Arc<Slot<dyn DnsServer>> = Slot::new("dns".into());
    let life = Incarnation { kind: Kind::DnsServer, type_name: "x", tag: "dns".into(), epoch: 1 };
    slot.set(Arc::new(life), server.clone());
    let mut names = Namespace::default();
    names.dns.insert("dns".into(), slot);
    let plane = Plane::new(Snapshot {
        generation: 1,
        routes: Arc::new(Nothing),
        names: Arc::new(names),
        resolver: Arc::new(Nothing),
        defaults: RouteDefaults::default(),
    });
    for (state, told) in [
        (state(Some(1), 2), 0), // the first look
        (state(Some(1), 2), 0),
        (state(Some(1), 3), 0), // somebody else's interface
        (state(Some(2), 3), 1),
        (state(None, 3), 2),
        (state(Some(2), 3), 3),
    ] {
        publish(&plane, state, true);
        assert_eq!(server.0.load(Ordering::Relaxed), told);
    }
}
