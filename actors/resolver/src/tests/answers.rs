use super::*;

fn with_edns(mut query: Message, dnssec: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(dnssec);
    query.set_edns(edns);
    query
}

/// Answers with an OPT record of its own, whatever the client has sent.
fn edns_server() -> Fixed {
    Fixed {
        answers: Some(Box::new(|query| {
            let mut reply = message::reply_addresses(query, &[v4()], 300);
            let mut edns = Edns::new();
            edns.set_max_payload(4096)
                .set_dnssec_ok(query.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok));
            reply.set_edns(edns);
            Some(reply)
        })),
        ..Fixed::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_answer_is_the_client_s_own() {
    let (resolver, _, b) = resolver("");
    let first = ask(&resolver, &query(1, "both.", RecordType::A)).await.unwrap();
    assert_eq!((first.metadata.id, addresses(&first)), (1, vec![v4()]));
    tokio::time::advance(Duration::from_millis(7500)).await;
    let mut again = query(2, "BoTh.", RecordType::A);
    again.metadata.recursion_desired = false;
    let second = ask(&resolver, &again).await.unwrap();
    assert_eq!((second.metadata.id, b.count()), (2, 1));
    assert!(!second.metadata.recursion_desired);
    assert_eq!(second.queries[0].name().to_string(), "BoTh.");
    assert_eq!(second.answers[0].name.to_string(), "BoTh.");
    assert_eq!(second.answers[0].ttl, 52);
    let mut out = b"before".to_vec();
    let wire = again.to_vec().unwrap();
    assert!(resolver.exchange_now(Ask::new(&wire), &mut out));
    assert_eq!(message::read(&out[6..]).unwrap(), second);
    tokio::time::advance(Duration::from_secs(53)).await;
    ask(&resolver, &again).await.unwrap();
    assert_eq!(b.count(), 2);
    resolver.flush();
    assert!(!resolver.exchange_now(Ask::new(&wire), &mut out));
}

#[tokio::test(start_paused = true)]
async fn edns_stays_between_those_who_speak_it() {
    let world = World::new([("a", edns_server())]);
    let resolver = world.bind(r#"{"servers": [{"type": "local", "tag": "a"}]}"#);
    let plain = query(1, "x.", RecordType::A);
    // Asked and cached alike.
    for _ in 0..2 {
        assert!(ask(&resolver, &plain).await.unwrap().edns.is_none());
        let edns = ask(&resolver, &with_edns(plain.clone(), false)).await.unwrap().edns.unwrap();
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (4096, false));
    }
    assert_eq!(world.count("a"), 1);
    // DNSSEC has answers of its own.
    for _ in 0..2 {
        let edns = ask(&resolver, &with_edns(plain.clone(), true)).await.unwrap().edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        assert_eq!(edns.rcode_high(), 0);
    }
    assert_eq!(world.count("a"), 2);
    assert!(world.servers["a"].last().edns.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_client_subnet_is_part_of_the_question() {
    let world = World::new([("a", edns_server())]);
    let dns = r#"{"servers": [{"type": "local", "tag": "a"}], "client_subnet": "192.0.2.0/24",
        "rules": [{"domain": "rule", "server": "a", "client_subnet": "2001:db8::/32"}]}"#;
    let resolver = world.bind(dns);
    let sent = || {
        let edns = world.servers["a"].last().edns.clone().unwrap();
        format!("{:?}", edns.options().as_ref())
    };
    for _ in 0..3 {
        let answer = ask(&resolver, &query(1, "x.", RecordType::A)).await.unwrap();
        assert!(answer.edns.is_none(), "the client has sent none");
        assert_eq!(answer.answers[0].ttl, 300);
    }
    assert_eq!(world.count("a"), 1);
    assert!(sent().contains("192.0.2.0"), "{}", sent());
    for _ in 0..3 {
        ask(&resolver, &query(1, "rule.", RecordType::A)).await.unwrap();
    }
    assert_eq!(world.count("a"), 2);
    assert!(sent().contains("2001:db8::"), "{}", sent());
}

#[tokio::test]
async fn unwanted_families_and_hints() {
    let world = World::new([(
        "a",
        Fixed {
            answers: Some(Box::new(|query| {
                let question = &query.queries[0];
                let mut reply = message::reply(query, ResponseCode::NoError);
                if question.query_type() == RecordType::HTTPS {
                    use hickory_proto::rr::rdata::{
                        HTTPS,
                        svcb::{IpHint, SVCB, SvcParamKey as K, SvcParamValue as V},
                    };
                    let (IpAddr::V4(four), IpAddr::V6(six)) = (v4(), v6()) else { return None };
                    let params = vec![
                        (K::Ipv4Hint, V::Ipv4Hint(IpHint(vec![four.into()]))),
                        (K::Ipv6Hint, V::Ipv6Hint(IpHint(vec![six.into()]))),
                    ];
                    let data = RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)));
                    reply.add_answer(Record::from_rdata(question.name().clone(), 60, data));
                    return Some(reply);
                }
                None
            })),
            ..Fixed::default()
        },
    )]);
    let resolver =
        world.bind(r#"{"servers": [{"type": "local", "tag": "a"}], "strategy": "ipv4_only"}"#);
    let empty = ask(&resolver, &query(9, "both.", RecordType::AAAA)).await.unwrap();
    assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
    assert!(empty.metadata.authoritative && empty.metadata.recursion_available);
    assert_eq!(world.count("a"), 0);
    for _ in 0..2 {
        let https = ask(&resolver, &query(9, "x.", RecordType::HTTPS)).await.unwrap();
        let text = https.answers[0].data.to_string();
        assert!(text.contains("ipv4hint") && !text.contains("ipv6hint"), "{text}");
    }
    assert_eq!(world.count("a"), 1);
}

#[tokio::test]
async fn messages_that_are_no_queries() {
    let (resolver, _, b) = resolver("");
    let exchange = |bytes: Vec<u8>| {
        let resolver = resolver.clone();
        async move { resolver.exchange(Ask::new(&bytes)).await }
    };
    assert!(matches!(exchange(vec![0; 11]).await, Err(ResolveError::Dropped)));
    let answer = message::reply(&query(1, "x.", RecordType::A), ResponseCode::NoError);
    assert!(matches!(exchange(answer.to_vec().unwrap()).await, Err(ResolveError::Dropped)));
    let mut two = query(3, "x.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let reply = message::read(&exchange(two.to_vec().unwrap()).await.unwrap()).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (3, ResponseCode::FormErr));
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn answers_to_something_else_are_refused() {
    let wrong = |answers: Answers| {
        World::new([("a", Fixed { answers: Some(answers), ..Fixed::default() })])
    };
    for (answers, text) in [
        (
            Box::new(|query: &Message| {
                let mut reply = message::reply_addresses(query, &[v4()], 1);
                reply.metadata.id ^= 1;
                Some(reply)
            }) as Answers,
            "lookup x: the answer is to another query",
        ),
        (
            Box::new(|_: &Message| {
                Some(message::reply(&query(0, "y.", RecordType::A), ResponseCode::NoError))
            }),
            "lookup x: the answer is to another question",
        ),
        (Box::new(|query: &Message| Some(query.clone())), "lookup x: the answer is a query"),
    ] {
        let resolver = wrong(answers).bind(r#"{"servers": [{"type": "local", "tag": "a"}]}"#);
        let error = ask(&resolver, &query(0, "x.", RecordType::A)).await.unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn cookies_are_for_one_client() {
    let cookie = |message: &Message| {
        let options = message.edns.as_ref().map(|edns| edns.options().as_ref().to_vec());
        options.unwrap_or_default().iter().any(|(code, _)| u16::from(*code) == 10)
    };
    let world = World::new([(
        "a",
        Fixed {
            answers: Some(Box::new(|query| {
                let mut reply = message::reply_addresses(query, &[v4()], 300);
                reply.edns.clone_from(&query.edns);
                Some(reply)
            })),
            ..Fixed::default()
        },
    )]);
    let resolver = world.bind(r#"{"servers": [{"type": "local", "tag": "a"}]}"#);
    let mut first = with_edns(query(1, "x.", RecordType::A), false);
    let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, vec![7; 8]);
    first.edns.as_mut().unwrap().options_mut().insert(option);
    assert!(cookie(&ask(&resolver, &first).await.unwrap()), "its own comes through");
    let second = ask(&resolver, &with_edns(query(2, "x.", RecordType::A), false)).await.unwrap();
    assert!(second.edns.is_some() && !cookie(&second));
    assert!(!cookie(&ask(&resolver, &first).await.unwrap()), "the cache has none");
    assert_eq!(world.count("a"), 1);
}
