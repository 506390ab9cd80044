//! What tests of sockets need: a build context, a resolver from a table, options from JSON.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    BoxFuture, BuildCx, Kind,
    component::{Dial, Incarnation, Outbound},
    error::DialError,
    flow::{BoxPacketIo, BoxStream},
    resolve::{DnsServer, ExchangeError, Lookup, Query, Resolve, ResolveError},
    slot::Slot,
    snapshot::{Namespace, Plane, RouteDefaults, Snapshot},
    supervise::Pulse,
};

/// Whether privileged tests can run; says loudly when not.
pub(crate) fn privileged(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("\n!!! {test} NOT RUN: it needs root !!!\n");
    }
    root
}

/// A network name space that is gone when this is dropped.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    /// A new one with `lo` up; `setup` are lines of `ip -netns NAME …`.
    pub(crate) fn new(setup: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let netns = Self(name);
        for line in ["link set lo up"].iter().chain(setup) {
            let mut words = vec!["-netns", &netns.0];
            words.extend(line.split(' '));
            ip(&words);
        }
        netns
    }

    /// Runs `work` inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        super::netns::within(Some(&self.0), || Ok(work())).unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(words: &[&str]) {
    let status = std::process::Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}");
}

/// What the resolver was asked last: server and cache bypass.
pub(crate) type Asked =
    Arc<Mutex<Option<(Option<String>, Option<crate::resolve::Strategy>, bool)>>>;

struct Table {
    names: HashMap<&'static str, Vec<IpAddr>>,
    asked: Asked,
}

impl Resolve for Table {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        *self.asked.lock() =
            Some((lookup.server.map(Into::into), lookup.strategy, lookup.disable_cache));
        let found = self.names.get(lookup.name).cloned();
        let missing = ResolveError::NotFound { name: lookup.name.into() };
        Box::pin(async move { found.ok_or(missing) })
    }
}

struct NoServer;

impl DnsServer for NoServer {
    fn exchange<'a>(&'a self, _: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async { Err(ExchangeError::failed("no server")) })
    }
}

/// Builds contexts.
#[derive(Default)]
pub(crate) struct Kit {
    pub(crate) names: Vec<(&'static str, Vec<&'static str>)>,
    pub(crate) dns: Vec<&'static str>,
    pub(crate) outbounds: Vec<(&'static str, Arc<dyn Outbound>)>,
    pub(crate) defaults: RouteDefaults,
    pub(crate) asked: Asked,
}

impl Kit {
    /// A context for a component of its own.
    pub(crate) fn cx(&self) -> BuildCx {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag: Arc<str> = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed)).into();
        let me = Arc::new(Incarnation { kind: Kind::Outbound, type_name: "test", tag, epoch: 1 });
        let mut names = Namespace::default();
        for tag in &self.dns {
            let slot = Slot::<dyn DnsServer>::new((*tag).into());
            slot.set(me.clone(), Arc::new(NoServer));
            names.dns.insert((*tag).into(), slot);
        }
        for (tag, outbound) in &self.outbounds {
            let slot = Slot::<dyn Outbound>::new((*tag).into());
            slot.set(me.clone(), outbound.clone());
            names.outbounds.insert((*tag).into(), slot);
        }
        let names = Arc::new(names);
        let table = self
            .names
            .iter()
            .map(|(name, ips)| (*name, ips.iter().map(|ip| ip.parse().unwrap()).collect()))
            .collect();
        let snapshot = Snapshot {
            generation: 1,
            names: names.clone(),
            resolver: Arc::new(Table { names: table, asked: self.asked.clone() }),
            defaults: self.defaults.clone(),
            ..Snapshot::empty()
        };
        let plane = Plane::new(snapshot);
        BuildCx {
            me,
            cancel: CancellationToken::new(),
            plane: Arc::new(plane),
            names,
            pulse: Pulse::default(),
            condition: Default::default(),
        }
    }
}

/// An outbound that connects to one address whatever it is asked for, and notes what it was asked for.
pub(crate) struct Fixed {
    pub(crate) addr: SocketAddr,
    pub(crate) empty_direct: bool,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Fixed {
    pub(crate) fn new(addr: SocketAddr, empty_direct: bool) -> Arc<Self> {
        Arc::new(Self { addr, empty_direct, asked: Mutex::default() })
    }
}

impl Outbound for Fixed {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        self.asked.lock().push(dial.target.to_string());
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(self.addr).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        self.asked.lock().push(dial.target.to_string());
        Box::pin(async { Err(DialError::unsupported("no datagrams here")) })
    }

    fn is_empty_direct(&self) -> bool {
        self.empty_direct
    }
}
