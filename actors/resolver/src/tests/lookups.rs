use super::*;

#[tokio::test]
async fn strategies_choose_and_order() {
    for (strategy, expected) in [
        (Strategy::AsIs, vec![v4(), v6()]),
        (Strategy::PreferIpv4, vec![v4(), v6()]),
        (Strategy::PreferIpv6, vec![v6(), v4()]),
        (Strategy::Ipv4Only, vec![v4()]),
        (Strategy::Ipv6Only, vec![v6()]),
    ] {
        let (resolver, ..) = resolver("");
        // Asked, then from the cache.
        for _ in 0..2 {
            let lookup = Lookup { strategy: Some(strategy), ..Lookup::new("both.") };
            assert_eq!(resolver.lookup(lookup).await.unwrap(), expected, "{strategy:?}");
        }
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
        (Lookup::new(""), "lookup : no such host"),
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
    assert_eq!((a.count(), b.count()), (0, 2));
    // An old-style server has one, too.
    let servers = r#"{"servers": [{"tag": "a", "address": "local", "strategy": "ipv6_only"}], "strategy": "ipv4_only"}"#;
    let world = World::new([("a", Fixed::default()), ("b", Fixed::default())]);
    let resolver = world.bind(servers);
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
        (a.count(), b.count(), error)
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
    assert_eq!(b.count(), 2);
    let alone = || resolver.lookup(Lookup { disable_cache: true, ..Lookup::new("slow") });
    let _ = tokio::join!(alone(), alone());
    assert_eq!(b.count(), 6);
}

#[tokio::test(start_paused = true)]
async fn who_asks_first_may_leave() {
    let (resolver, _, b) = resolver("");
    let only = || Lookup { strategy: Some(Strategy::Ipv4Only), ..Lookup::new("slow") };
    let first = tokio::time::timeout(Duration::from_millis(10), resolver.lookup(only())).await;
    assert!(first.is_err());
    assert_eq!(resolver.lookup(only()).await.unwrap(), [v4()]);
    assert_eq!(b.count(), 1);
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
    let (resolver, ..) = super::resolver(r#", "timeout": "2s""#);
    let error = resolver.lookup(Lookup::new("dead")).await.unwrap_err();
    assert_eq!(error.to_string(), "lookup dead: no answer within 2s");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_degraded_says_so() {
    let mut names = Namespace::default();
    let slot: Arc<Slot<dyn DnsServer>> = Slot::new("a".into());
    slot.clear(Health::Degraded("no luck".into()));
    names.dns.insert("a".into(), slot);
    let resolver = Plan::default().bind(&Arc::new(names), &Keeper::default());
    let error = resolver.lookup(Lookup::new("both")).await.unwrap_err().to_string();
    assert!(error.contains("degraded: no luck"), "{error}");
}

/// Asks the resolver for the name of its own server, as a dialer does.
struct Circular(Arc<std::sync::OnceLock<Arc<dyn Resolve>>>, &'static str);

impl DnsServer for Circular {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            let resolver = self.0.get().unwrap();
            let lookup = Lookup {
                server: Some(self.1),
                trail: query.trail,
                strategy: Some(Strategy::Ipv4Only),
                ..Lookup::new("server.example")
            };
            let error = resolver.lookup(lookup).await.unwrap_err();
            Err(ExchangeError::failed(error))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn loops_are_named_and_do_not_wait_for_themselves() {
    let cell = Arc::default();
    let mut names = Namespace::default();
    for (tag, next) in [("a", "b"), ("b", "a")] {
        let slot: Arc<Slot<dyn DnsServer>> = Slot::new(tag.into());
        slot.set(life(tag, 1), Arc::new(Circular(Arc::clone(&cell), next)));
        names.dns.insert(tag.into(), slot);
    }
    let dns = r#"{"servers": [{"type": "local", "tag": "a"}, {"type": "local", "tag": "b"}]}"#;
    let resolver = plan(dns).unwrap().bind(&Arc::new(names), &Keeper::default());
    let _ = cell.set(resolver.clone());
    let start = tokio::time::Instant::now();
    // Both begin with the same name, so that each could wait for the other's.
    let of = |server| {
        let strategy = Some(Strategy::Ipv4Only);
        resolver.lookup(Lookup { server: Some(server), strategy, ..Lookup::new("server.example") })
    };
    let (a, b) = tokio::join!(of("a"), of("b"));
    let (a, b) = (a.unwrap_err().to_string(), b.unwrap_err().to_string());
    assert!(a.contains("DNS query loop: a -> b -> a"), "{a}");
    assert!(b.contains("DNS query loop: b -> a -> b"), "{b}");
    assert!(start.elapsed() < Duration::from_secs(1));
}
