use super::*;

fn answering(answer: impl Fn(&Message) -> Message + Send + Sync + 'static) -> World {
    let one =
        Fixed { answers: Some(Box::new(move |query| Some(answer(query)))), ..Fixed::default() };
    World::new([("a", one), ("b", Fixed::default())])
}

const DNS: &str = r#""servers": [{"type": "local", "tag": "a"}, {"type": "local", "tag": "b"}]"#;

fn soa(ttl: u32, minimum: u32) -> Record {
    use hickory_proto::rr::rdata::SOA;
    let data = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, minimum);
    Record::from_rdata(Name::root(), ttl, RData::SOA(data))
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_and_for_how_long() {
    // Code, SOA (TTL, minimum), TTLs of answers; how long it is kept, in seconds.
    for (code, negative, ttls, kept) in [
        (ResponseCode::NoError, None, vec![300, 60, 100], 60),
        (ResponseCode::NoError, None, vec![300, 0], 0),
        (ResponseCode::NXDomain, Some((600, 30)), vec![], 30),
        (ResponseCode::NoError, Some((20, 30)), vec![], 20),
        (ResponseCode::NoError, Some((600, 0)), vec![], 0),
        (ResponseCode::NoError, Some((40, 30)), vec![50], 40),
        (ResponseCode::NXDomain, None, vec![], 0),
        (ResponseCode::ServFail, Some((600, 30)), vec![], 0),
    ] {
        let what = format!("{code} {negative:?} {ttls:?}");
        let world = answering(move |query| {
            let mut reply = message::reply(query, code);
            for ttl in &ttls {
                let one = RData::A(std::net::Ipv4Addr::LOCALHOST.into());
                reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), *ttl, one));
            }
            if let Some((ttl, minimum)) = negative {
                reply.add_authority(soa(ttl, minimum));
            }
            reply
        });
        let resolver = world.bind(&format!("{{{DNS}}}"));
        let asked = query(1, "x.", RecordType::A);
        let first = ask(&resolver, &asked).await.unwrap();
        for record in first.all_sections() {
            assert!(record.ttl == kept || code == ResponseCode::ServFail, "{what}: {record}");
        }
        let wire = asked.to_vec().unwrap();
        let cached = |seconds| {
            let (resolver, wire) = (resolver.clone(), wire.clone());
            async move {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                resolver.exchange_now(Ask::new(&wire), &mut Vec::new())
            }
        };
        assert_eq!(cached(0).await, kept > 0, "{what}");
        if kept > 0 {
            assert!(cached(u64::from(kept) - 1).await, "{what}");
            assert!(!cached(2).await, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_do_not_age() {
    let world = answering(|query| message::reply_addresses(query, &[v4()], 5));
    let resolver = world.bind(&format!(r#"{{{DNS}, "disable_expire": true}}"#));
    for _ in 0..3 {
        let answer = ask(&resolver, &query(1, "x.", RecordType::A)).await.unwrap();
        assert_eq!(answer.answers[0].ttl, 5);
        tokio::time::advance(Duration::from_secs(100_000)).await;
    }
    assert_eq!(world.count("a"), 1);
    let world = answering(|query| message::reply_addresses(query, &[v4()], 5));
    let resolver = world.bind(&format!(r#"{{{DNS}, "disable_cache": true}}"#));
    for _ in 0..3 {
        ask(&resolver, &query(1, "x.", RecordType::A)).await.unwrap();
    }
    assert_eq!(world.count("a"), 3);
}

#[tokio::test]
async fn one_cache_for_all_or_for_each() {
    for (rest, expected) in [("", 0), (r#", "independent_cache": true"#, 2)] {
        let world = answering(|query| message::reply_addresses(query, &[v4()], 60));
        let resolver = world.bind(&format!("{{{DNS}{rest}}}"));
        for _ in 0..2 {
            let both = |server| Lookup { server: Some(server), ..Lookup::new("both") };
            resolver.lookup(both("a")).await.unwrap();
            resolver.lookup(both("b")).await.unwrap();
        }
        assert_eq!(world.count("b"), expected, "{rest}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_after_their_time() {
    let world = answering(|query| message::reply_addresses(query, &[v4()], 60));
    let dns = format!(r#"{{{DNS}, "optimistic": {{"enabled": true, "timeout": "1h"}}}}"#);
    let resolver = world.bind(&dns);
    let asked = query(1, "x.", RecordType::A);
    ask(&resolver, &asked).await.unwrap();
    tokio::time::advance(Duration::from_secs(100)).await;
    let stale = ask(&resolver, &asked).await.unwrap();
    assert_eq!((stale.answers[0].ttl, addresses(&stale)), (30, vec![v4()]));
    while world.count("a") < 2 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert_eq!(ask(&resolver, &asked).await.unwrap().answers[0].ttl, 60);
    assert_eq!(world.count("a"), 2);
    // A server that is down.
    tokio::time::advance(Duration::from_secs(100)).await;
    world.names.dns["a"].clear(Health::Degraded("down".into()));
    assert_eq!(ask(&resolver, &asked).await.unwrap().answers[0].ttl, 30);
    tokio::time::advance(Duration::from_secs(7200)).await;
    assert!(ask(&resolver, &asked).await.is_err());
}

#[tokio::test]
async fn answers_that_hold_outlive_a_reload() {
    let world = answering(|query| message::reply_addresses(query, &[v4()], 60));
    let first = world.bind(&format!("{{{DNS}}}"));
    let asked = query(1, "x.", RecordType::A);
    ask(&first, &asked).await.unwrap();
    ask(&world.bind(&format!("{{{DNS}}}")), &asked).await.unwrap();
    assert_eq!(world.count("a"), 1);
    // Another server has changed.
    let other = r#"{"servers": [{"type": "local", "tag": "a"}, {"type": "udp", "tag": "b", "server": "192.0.2.1"}]}"#;
    ask(&world.bind(other), &asked).await.unwrap();
    assert_eq!(world.count("a"), 1);
    // This one has, or the rules have.
    for dns in [
        r#"{"servers": [{"type": "udp", "tag": "a", "server": "192.0.2.1"}]}"#.to_owned(),
        format!(r#"{{{DNS}, "rules": [{{"domain": "y", "server": "b"}}]}}"#),
    ] {
        let before = world.count("a");
        ask(&world.bind(&dns), &asked).await.unwrap();
        assert_eq!(world.count("a"), before + 1, "{dns}");
    }
    // The one in force has lost nothing by all of that.
    ask(&first, &asked).await.unwrap();
    assert_eq!(world.count("a"), 3);
}

/// Nanoseconds that this thread has run.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// CPU time per cached answer; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn nanoseconds_per_hit() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = answering(|query| message::reply_addresses(query, &[v4(), v4()], 600));
        let resolver = world.bind(&format!(r#"{{{DNS}, "cache_capacity": 16384}}"#));
        for names in [100u16, 10_000] {
            let queries: Vec<Vec<u8>> = (0..names)
                .map(|n| {
                    let name = format!("host{n}.some.example.org.");
                    query(n, &name, RecordType::A).to_vec().unwrap()
                })
                .collect();
            for query in &queries {
                resolver.exchange(Ask::new(query)).await.unwrap();
            }
            let rounds = 1_000_000 / u64::from(names);
            let mut out = Vec::with_capacity(4096);
            let mut each = |resolver: &Arc<dyn Resolve>| {
                let start = cpu_time();
                let mut hits = 0;
                for _ in 0..rounds {
                    for query in &queries {
                        out.clear();
                        hits += u64::from(resolver.exchange_now(Ask::new(query), &mut out));
                    }
                }
                (cpu_time() - start) / hits.max(1)
            };
            println!("{names} names: {} ns through exchange_now", each(&resolver));
            let start = cpu_time();
            for query in &queries {
                resolver.exchange(Ask::new(query)).await.unwrap();
            }
            let each = (cpu_time() - start) / u64::from(names);
            println!("{names} names: {each} ns through exchange");
        }
        let query = query(1, "host1.some.example.org.", RecordType::A).to_vec().unwrap();
        let start = cpu_time();
        let mut sum = 0usize;
        for _ in 0..1_000_000 {
            sum += crate::wire::Query::parse(&query).unwrap().question_end();
        }
        println!("{} ns to read a question ({sum})", (cpu_time() - start) / 1_000_000);
        let start = cpu_time();
        for _ in 0..1_000_000 {
            let parsed = crate::wire::Query::parse(&query).unwrap();
            sum += crate::cache::Key::new(&parsed, None, None).as_bytes().len();
        }
        println!("{} ns with its key ({sum})", (cpu_time() - start) / 1_000_000);
        let start = cpu_time();
        for _ in 0..1_000_000 {
            std::hint::black_box(tokio::time::Instant::now());
        }
        println!("{} ns to tell the time", (cpu_time() - start) / 1_000_000);
    });
}
