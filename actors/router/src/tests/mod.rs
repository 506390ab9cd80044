//! Whole configurations against connections: which rule decides, and what it does to the session.

mod actions;
mod cases;
mod errors;
mod random;
mod sniffing;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, Kind,
    addr::Target,
    component::{Dial, Incarnation, Outbound},
    error::DialError,
    flow::{Batch, BoxPacketIo, BoxStream, Flow, PacketIo},
    resolve::{Lookup, Resolve, ResolveError},
    session::{Network, Session},
    slot::Slot,
    snapshot::{Decision, Namespace, RouteError, Snapshot},
};
use crosspoint_rules::RuleSets;
use crosspoint_schema::{Config, ConfigError, decode::Context, json::Loaded};

use crate::Rules;

/// Compiles the `route` section of a configuration.
fn compile(route: &str) -> Result<Rules, ConfigError> {
    let text = format!(r#"{{"route": {route}}}"#);
    let Loaded { sources, root, .. } = Loaded::from_text("test.json", &text).unwrap();
    let config = Config::decode(&root, &Context::new(sources))?;
    Rules::compile(config.route.as_ref().unwrap(), &config, &RuleSets::default())
}

/// Compiles rules alone.
fn rules(rules: &str) -> Rules {
    compile(&format!(r#"{{"rules": [{rules}]}}"#))
        .unwrap_or_else(|error| panic!("{rules}: {error}"))
}

/// Outbounds by what they carry.
struct Carries(bool, bool);

impl Outbound for Carries {
    fn connect<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async { Err(DialError::unsupported("test")) })
    }

    fn associate<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("test")) })
    }

    fn supports(&self, network: Network) -> bool {
        if network == Network::Tcp { self.0 } else { self.1 }
    }
}

/// Knows names ending in `.known`, as 192.0.2.7 and 2001:db8::7; tells which server was asked. 198.18.0.1 is made up for
/// `fake.known`, other addresses of that network stand for nothing; somebody was told 203.0.113.9 for `told.example`.
struct Names;

impl Resolve for Names {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            if let Some(server) = lookup.server.filter(|server| *server != "dns") {
                return Err(ResolveError::NoServer(server.into()));
            }
            if let (Some(ttl), Some(subnet)) = (lookup.rewrite_ttl, lookup.client_subnet) {
                let said = format!("{ttl} {subnet} of {}", lookup.session.unwrap().source);
                return Err(ResolveError::NotFound { name: said.into() });
            }
            if !lookup.name.ends_with(".known") {
                return Err(ResolveError::NotFound { name: lookup.name.into() });
            }
            let (v4, v6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
            use crosspoint_kernel::resolve::Strategy as S;
            Ok(match lookup.strategy {
                Some(S::Ipv4Only) => vec![v4],
                Some(S::Ipv6Only) => vec![v6],
                Some(S::PreferIpv6) => vec![v6, v4],
                _ => vec![v4, v6],
            })
        })
    }

    fn fake_name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        let text = ip.to_string();
        text.starts_with("198.18.").then(|| (text == "198.18.0.1").then(|| "fake.known".into()))
    }

    fn mapped_name(&self, ip: IpAddr) -> Option<Box<str>> {
        (ip.to_string() == "203.0.113.9").then(|| "told.example".into())
    }
}

fn life(kind: Kind, tag: &str) -> Arc<Incarnation> {
    Arc::new(Incarnation { kind, type_name: "test", tag: tag.into(), epoch: 1 })
}

/// A generation with the outbounds `a`, `b`, `tcp` and `udp`, the default `final`, and these rules.
fn snapshot(rules: &Rules) -> Snapshot {
    let slot = |tag: &str, carries| {
        let slot: Arc<Slot<dyn Outbound>> = Slot::new(tag.into());
        slot.set(life(Kind::Outbound, tag), Arc::new(carries));
        slot
    };
    let mut names = Namespace {
        default_outbound: Some(slot("final", Carries(true, true))),
        ..Namespace::default()
    };
    for (tag, tcp, udp) in
        [("a", true, true), ("b", true, true), ("tcp", true, false), ("udp", false, true)]
    {
        names.outbounds.insert(tag.into(), slot(tag, Carries(tcp, udp)));
    }
    let routes = rules.bind(&names).unwrap();
    Snapshot {
        generation: 1,
        routes,
        names: Arc::new(names),
        resolver: Arc::new(Names),
        defaults: Default::default(),
    }
}

/// A connection as tests write it: `tcp example.org:443 from=10.0.0.9:999 in=mixed user=me`.
fn session(text: &str) -> Box<Session> {
    let mut words = text.split_whitespace();
    let network = if words.next() == Some("udp") { Network::Udp } else { Network::Tcp };
    let (host, port) = words.next().unwrap().rsplit_once(':').unwrap();
    let fields: HashMap<&str, &str> = words.map(|word| word.split_once('=').unwrap()).collect();
    let source = fields.get("from").unwrap_or(&"127.0.0.1:40000").parse().unwrap();
    let inbound = life(Kind::Inbound, fields.get("in").unwrap_or(&"in"));
    let mut session =
        Session::new(1, inbound, network, source, Target::new(host, port.parse().unwrap()));
    session.user = fields.get("user").map(|user| (*user).into());
    session.domain = fields.get("domain").map(|domain| (*domain).into());
    session.client = fields.get("client").map(|client| (*client).into());
    session.protocol = fields
        .get("protocol")
        .and_then(|name| crate::sniff::Sniffer::parse(name))
        .map(|s| s.name());
    session
}

/// A packet flow without packets.
struct NoPackets;

impl PacketIo for NoPackets {
    fn poll_recv(
        &mut self,
        _: &mut std::task::Context<'_>,
        _: &mut Batch,
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Pending
    }

    fn poll_send(
        &mut self,
        _: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> std::task::Poll<std::io::Result<()>> {
        batch.clear();
        std::task::Poll::Ready(Ok(()))
    }
}

/// A flow that fits the session and on which nobody speaks. The other end is kept open by the caller.
fn silent(session: &Session) -> (Flow, tokio::io::DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let flow = match session.network {
        Network::Tcp => Flow::Stream(Box::new(near)),
        Network::Udp => Flow::Packet(Box::new(NoPackets)),
    };
    (flow, far)
}

async fn route(
    snapshot: &Snapshot,
    session: &mut Session,
    flow: &mut Flow,
) -> Result<Decision, RouteError> {
    snapshot.routes.route(session, flow, snapshot).await
}

/// What became of a connection, in one word: the outbound, `refuse`, `drop`, or the error.
fn word(result: &Result<Decision, RouteError>) -> String {
    match result {
        Ok(Decision::Outbound(slot)) => slot.tag.to_string(),
        Ok(Decision::Reject(how)) => format!("{how:?}").to_lowercase(),
        Ok(Decision::HijackDns) => "hijack-dns".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Routes one connection on a silent flow.
async fn decide(rules: &Rules, connection: &str) -> (String, Box<Session>) {
    let snapshot = snapshot(rules);
    let mut session = session(connection);
    let (mut flow, _far) = silent(&session);
    let result = route(&snapshot, &mut session, &mut flow).await;
    (word(&result), session)
}
