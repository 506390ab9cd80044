//! Which server is asked what, and what becomes of its answers.

use std::{
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
    resolve::{DnsServer, ExchangeError, Lookup, Query, Resolve, Strategy},
    slot::{Health, Slot},
    snapshot::Namespace,
};
use crosspoint_schema::{Config, ConfigError, decode::Context, json::Loaded};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{Plan, message};

/// Knows `both`, `six` (whose other family fails), `half` (whose other family is empty) and `slow`; counts queries.
#[derive(Default)]
struct Fixed(AtomicU32);

fn v4() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn v6() -> IpAddr {
    "2001:db8::1".parse().unwrap()
}

impl DnsServer for Fixed {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let query = message::read(query.message).unwrap();
            let question = &query.queries[0];
            let found = match (&*question.name().to_string(), question.query_type()) {
                ("both.", RecordType::A) => vec![v4()],
                ("both." | "six." | "half.", _) if question.query_type() == RecordType::AAAA => {
                    vec![v6()]
                }
                ("half.", _) => Vec::new(),
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
}

fn plan(dns: &str) -> Result<Plan, ConfigError> {
    let text = format!(r#"{{"dns": {dns}}}"#);
    let Loaded { sources, root, .. } = Loaded::from_text("test.json", &text).unwrap();
    let config = Config::decode(&root, &Context::new(sources)).unwrap();
    Plan::compile(config.dns.as_ref())
}

/// A resolver on the servers `a` and `b`.
fn bound(plan: Plan) -> (Arc<dyn Resolve>, Arc<Fixed>, Arc<Fixed>) {
    let mut names = Namespace::default();
    let [a, b] = ["a", "b"].map(|tag| {
        let server = Arc::new(Fixed::default());
        let slot: Arc<Slot<dyn DnsServer>> = Slot::new(tag.into());
        let life = Incarnation { kind: Kind::DnsServer, type_name: "t", tag: tag.into(), epoch: 1 };
        slot.set(Arc::new(life), server.clone());
        names.dns.insert(tag.into(), slot);
        server
    });
    (plan.bind(&Arc::new(names)), a, b)
}

const SERVERS: &str = r#"[{"type": "local", "tag": "b"}, {"type": "local", "tag": "a"}]"#;

fn resolver(rest: &str) -> (Arc<dyn Resolve>, Arc<Fixed>, Arc<Fixed>) {
    bound(plan(&format!(r#"{{"servers": {SERVERS}{rest}}}"#)).unwrap())
}

#[tokio::test]
async fn strategies_choose_and_order() {
    let (resolver, ..) = resolver("");
    for (strategy, expected) in [
        (Strategy::AsIs, vec![v4(), v6()]),
        (Strategy::PreferIpv4, vec![v4(), v6()]),
        (Strategy::PreferIpv6, vec![v6(), v4()]),
        (Strategy::Ipv4Only, vec![v4()]),
        (Strategy::Ipv6Only, vec![v6()]),
    ] {
        let lookup = Lookup { strategy: Some(strategy), ..Lookup::new("both.") };
        assert_eq!(resolver.lookup(lookup).await.unwrap(), expected, "{strategy:?}");
    }
}

#[tokio::test]
async fn one_family_is_enough() {
    let (resolver, ..) = resolver("");
    assert_eq!(resolver.lookup(Lookup::new("six")).await.unwrap(), [v6()]);
    assert_eq!(resolver.lookup(Lookup::new("half")).await.unwrap(), [v6()]);
    let only = |name| Lookup { strategy: Some(Strategy::Ipv4Only), ..Lookup::new(name) };
    for (lookup, text) in [
        (only("six"), "lookup six: no"),
        (only("half"), "lookup half: no such host"),
        (Lookup::new("none"), "lookup none: no such host"),
    ] {
        assert_eq!(resolver.lookup(lookup).await.unwrap_err().to_string(), text);
    }
}

#[tokio::test]
async fn strategies_have_an_order_of_their_own() {
    let (resolver, a, b) = resolver(r#", "strategy": "prefer_ipv6""#);
    assert_eq!(resolver.lookup(Lookup::new("both")).await.unwrap(), [v6(), v4()]);
    let as_is = Lookup { strategy: Some(Strategy::AsIs), ..Lookup::new("both") };
    assert_eq!(resolver.lookup(as_is).await.unwrap(), [v6(), v4()]);
    assert_eq!((a.0.load(Ordering::Relaxed), b.0.load(Ordering::Relaxed)), (0, 4));
    // An old-style server has one, too.
    let servers = r#"{"servers": [{"tag": "a", "address": "local", "strategy": "ipv6_only"}], "strategy": "ipv4_only"}"#;
    let (resolver, ..) = bound(plan(servers).unwrap());
    assert_eq!(resolver.lookup(Lookup::new("both")).await.unwrap(), [v6()]);
    let other = Lookup { server: Some("b"), ..Lookup::new("both") };
    assert_eq!(resolver.lookup(other).await.unwrap(), [v4()]);
}

#[tokio::test]
async fn servers_are_chosen() {
    let asked = async |rest: &str, server| {
        let (resolver, a, b) = resolver(rest);
        let result = resolver.lookup(Lookup { server, ..Lookup::new("both") }).await;
        let error = result.err().map(|error| error.to_string());
        (a.0.load(Ordering::Relaxed), b.0.load(Ordering::Relaxed), error)
    };
    assert_eq!(asked("", None).await, (0, 2, None));
    assert_eq!(asked(r#", "final": "a""#, None).await, (2, 0, None));
    assert_eq!(asked("", Some("a")).await, (2, 0, None));
    let error = Some("DNS server not found: c".to_owned());
    assert_eq!(asked("", Some("c")).await, (0, 0, error));
}

#[tokio::test(start_paused = true)]
async fn equal_lookups_are_one() {
    let (resolver, _, b) = resolver("");
    let ask = || resolver.lookup(Lookup::new("slow"));
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    assert_eq!(one.unwrap(), two.unwrap());
    assert!(three.is_ok());
    assert_eq!(b.0.load(Ordering::Relaxed), 2);
    let alone = || resolver.lookup(Lookup { disable_cache: true, ..Lookup::new("slow") });
    let _ = tokio::join!(alone(), alone());
    assert_eq!(b.0.load(Ordering::Relaxed), 6);
}

#[tokio::test(start_paused = true)]
async fn servers_that_fail_in_their_own_ways() {
    let (resolver, ..) = resolver("");
    let start = tokio::time::Instant::now();
    let error = resolver.lookup(Lookup::new("dead")).await.unwrap_err();
    assert_eq!(error.to_string(), "lookup dead: no answer within 10s");
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    let error = resolver.lookup(Lookup::new("panic")).await.unwrap_err();
    assert_eq!(error.to_string(), "lookup panic: the server gave up");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_degraded_says_so() {
    let mut names = Namespace::default();
    let slot: Arc<Slot<dyn DnsServer>> = Slot::new("a".into());
    slot.clear(Health::Degraded("no luck".into()));
    names.dns.insert("a".into(), slot);
    let resolver = Plan::default().bind(&Arc::new(names));
    let error = resolver.lookup(Lookup::new("both")).await.unwrap_err().to_string();
    assert!(error.contains("degraded: no luck"), "{error}");
}

#[test]
fn what_this_build_lacks() {
    for (option, path) in [
        (r#""rules": [{"domain": "a", "server": "a"}]"#, "dns.rules"),
        (r#""reverse_mapping": true"#, "dns.reverse_mapping"),
        (r#""disable_expire": true"#, "dns.disable_expire"),
        (r#""independent_cache": true"#, "dns.independent_cache"),
        (r#""cache_capacity": 2048"#, "dns.cache_capacity"),
        (r#""client_subnet": "192.0.2.0/24""#, "dns.client_subnet"),
    ] {
        let error = plan(&format!("{{{option}}}")).unwrap_err();
        assert_eq!(error.summary(), format!("initialize dns router: {path} is not in this build"));
        assert_eq!(error.path, path);
    }
    let old = r#"{"servers": [{"address": "local", "client_subnet": "192.0.2.0/24"}]}"#;
    let error = plan(old).unwrap_err();
    assert_eq!(error.summary(), "initialize DNS server[0]: client_subnet is not in this build");
    assert!(plan(r#"{"disable_cache": true, "strategy": "ipv4_only"}"#).is_ok());
}

#[test]
fn the_final_server_is_a_reference() {
    let plan = plan(&format!(r#"{{"servers": {SERVERS}, "final": "c"}}"#)).unwrap();
    let references = format!("{:?}", plan.references());
    assert_eq!(references, r#"[(DnsServer("c"), "dns.final")]"#);
    assert!(Plan::compile(None).unwrap().references().is_empty());
}
