//! Which server is asked what, and what becomes of its answers.

mod answers;
mod cache;
mod lookups;
mod plans;
mod rules;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, Kind,
    component::Incarnation,
    resolve::{
        Ask, DnsServer, ExchangeError, FakeIp, Lookup, Query, Resolve, ResolveError, Strategy,
    },
    slot::{Health, Slot},
    snapshot::Namespace,
};
use crosspoint_rules::{Compat, Compiled, RuleSetSlot, RuleSets};
use crosspoint_schema::{Config, ConfigError, decode::Context, json::Loaded};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use parking_lot::Mutex;

use crate::{Keeper, Plan, message};

type Answers = Box<dyn Fn(&Message) -> Option<Message> + Send + Sync>;

/// A server in the test's hands. It knows `both`, `six` (whose other family fails), `half` (whose other family is
/// empty), `slow`, `dead`, `panic`; counts queries and remembers the last one.
#[derive(Default)]
struct Fixed {
    count: AtomicU32,
    last: Mutex<Vec<u8>>,
    answers: Option<Answers>,
    fake: bool,
}

impl Fixed {
    fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn last(&self) -> Message {
        message::read(&self.last.lock()).unwrap()
    }
}

fn v4() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn v6() -> IpAddr {
    "2001:db8::1".parse().unwrap()
}

impl DnsServer for Fixed {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        *self.last.lock() = query.message.to_vec();
        Box::pin(async move {
            let query = message::read(query.message).unwrap();
            if let Some(answer) = self.answers.as_ref().and_then(|answers| answers(&query)) {
                return Ok(answer.to_vec().unwrap());
            }
            let question = &query.queries[0];
            let name = question.name().to_lowercase().to_string();
            let found = match (&*name, question.query_type()) {
                ("both.", RecordType::A) => vec![v4()],
                ("both." | "six." | "half.", RecordType::AAAA) => vec![v6()],
                ("half." | "both.", _) => Vec::new(),
                ("six.", _) => return Err(ExchangeError::failed("no")),
                ("slow.", _) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    vec![v4()]
                }
                ("dead.", _) => std::future::pending().await,
                ("panic.", _) => panic!("told to"),
                _ => return Ok(message::reply(&query, ResponseCode::NXDomain).to_vec().unwrap()),
            };
            Ok(message::reply_addresses(&query, &found, 60).to_vec().unwrap())
        })
    }

    fn fake_ip(&self) -> Option<&dyn FakeIp> {
        self.fake.then_some(self as &dyn FakeIp)
    }
}

impl FakeIp for Fixed {
    fn name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        (ip == v4()).then(|| Some("fake.example".into()))
    }
}

fn config(text: &str) -> Config {
    let Loaded { sources, root, .. } = Loaded::from_text("test.json", text).unwrap();
    Config::decode(&root, &Context::new(sources)).unwrap()
}

fn sets() -> RuleSets {
    let slot = RuleSetSlot::new("lan");
    RuleSets::new([slot], Compat::default())
}

fn plan(dns: &str) -> Result<Plan, ConfigError> {
    Plan::compile(&config(&format!(r#"{{"dns": {dns}}}"#)), &sets())
}

/// The namespace of a generation and its servers by tag.
struct World {
    names: Arc<Namespace>,
    servers: HashMap<&'static str, Arc<Fixed>>,
    keeper: Keeper,
}

impl World {
    fn new(servers: impl IntoIterator<Item = (&'static str, Fixed)>) -> Self {
        let mut names = Namespace::default();
        let servers = servers.into_iter().map(|(tag, server)| {
            let server = Arc::new(server);
            let slot: Arc<Slot<dyn DnsServer>> = Slot::new(tag.into());
            slot.set(life(tag, 1), server.clone());
            names.dns.insert(tag.into(), slot);
            (tag, server)
        });
        let servers = servers.collect();
        Self { names: Arc::new(names), servers, keeper: Keeper::default() }
    }

    fn bind(&self, dns: &str) -> Arc<dyn Resolve> {
        plan(dns).unwrap().bind(&self.names, &self.keeper)
    }

    fn count(&self, tag: &str) -> u32 {
        self.servers[tag].count()
    }
}

fn life(tag: &str, epoch: u64) -> Arc<Incarnation> {
    Arc::new(Incarnation { kind: Kind::DnsServer, type_name: "t", tag: tag.into(), epoch })
}

const SERVERS: &str = r#"[{"type": "local", "tag": "b"}, {"type": "local", "tag": "a"}]"#;

/// A resolver on the servers `a` and `b`, of which `b` is the default.
fn resolver(rest: &str) -> (Arc<dyn Resolve>, Arc<Fixed>, Arc<Fixed>) {
    let world = World::new([("a", Fixed::default()), ("b", Fixed::default())]);
    let resolver = world.bind(&format!(r#"{{"servers": {SERVERS}{rest}}}"#));
    (resolver, world.servers["a"].clone(), world.servers["b"].clone())
}

fn query(id: u16, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

async fn ask(resolver: &Arc<dyn Resolve>, query: &Message) -> Result<Message, ResolveError> {
    let query = query.to_vec().unwrap();
    let answer = resolver.exchange(Ask::new(&query)).await?;
    Ok(message::read(&answer).unwrap())
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message::addresses(message).collect()
}
