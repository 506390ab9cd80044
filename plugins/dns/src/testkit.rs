//! A plane for tests: no rules, no names.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, Kind,
    component::Incarnation,
    flow::Flow,
    resolve::{Lookup, Resolve, ResolveError},
    session::Session,
    snapshot::{
        Decision, Namespace, Plane, PreMatch, Reject, RouteDefaults, RouteError, RouteTable,
        Snapshot,
    },
    supervise::Pulse,
};

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
        PreMatch::Reject(Reject::Refuse)
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

/// A plane with these names in force.
pub(crate) fn plane(names: Namespace) -> Arc<Plane> {
    Arc::new(Plane::new(Snapshot {
        generation: 1,
        routes: Arc::new(Nothing),
        names: Arc::new(names),
        resolver: Arc::new(Nothing),
        defaults: RouteDefaults::default(),
    }))
}

/// What a DNS server is built with.
pub(crate) fn build_cx(type_name: &'static str, plane: Arc<Plane>) -> BuildCx {
    let me = Incarnation { kind: Kind::DnsServer, type_name, tag: "tested".into(), epoch: 1 };
    let names = plane.snapshot.load().names.clone();
    BuildCx { me: Arc::new(me), cancel: Default::default(), plane, names, pulse: Pulse::default() }
}
