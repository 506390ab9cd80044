use std::sync::atomic::{AtomicU32, Ordering};

use crosspoint_kernel::{
    component::Incarnation,
    net::monitor::Interface,
    resolve::{DnsServer, ExchangeError, Query},
    slot::Slot,
    snapshot::{Namespace, Snapshot},
};

use super::*;

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
    let names = Arc::new(names);
    let plane = Plane::new(Snapshot { generation: 1, names, ..Snapshot::empty() });
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
