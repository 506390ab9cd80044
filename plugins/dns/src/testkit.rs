//! A plane for tests: no rules, no names.

use std::sync::Arc;

use crosspoint_kernel::{
    BuildCx, Kind,
    component::Incarnation,
    snapshot::{Namespace, Plane, Snapshot},
    supervise::Pulse,
};

/// A plane with these names in force.
pub(crate) fn plane(names: Namespace) -> Arc<Plane> {
    let names = Arc::new(names);
    Arc::new(Plane::new(Snapshot { generation: 1, names, ..Snapshot::empty() }))
}

/// What a DNS server is built with.
pub(crate) fn build_cx(type_name: &'static str, plane: Arc<Plane>) -> BuildCx {
    let me = Incarnation { kind: Kind::DnsServer, type_name, tag: "tested".into(), epoch: 1 };
    let names = plane.snapshot.load().names.clone();
    BuildCx {
        me: Arc::new(me),
        cancel: Default::default(),
        plane,
        names,
        pulse: Pulse::default(),
        condition: Default::default(),
    }
}
