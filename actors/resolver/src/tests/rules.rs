use super::*;

/// Servers that answer every name with one address of theirs.
fn addressed(ip: IpAddr) -> Fixed {
    Fixed {
        answers: Some(Box::new(move |query| {
            let wanted = (query.queries[0].query_type() == RecordType::A) == ip.is_ipv4();
            Some(message::reply_addresses(
                query,
                if wanted { std::slice::from_ref(&ip) } else { &[] },
                60,
            ))
        })),
        ..Fixed::default()
    }
}

fn world() -> World {
    World::new([
        ("a", addressed([10, 0, 0, 1].into())),
        ("b", addressed([198, 51, 100, 2].into())),
        ("f", Fixed { fake: true, ..addressed([198, 18, 0, 4].into()) }),
    ])
}

fn with_rules(world: &World, rules: &str, rest: &str) -> Arc<dyn Resolve> {
    world.bind(&format!(
        r#"{{"servers": [{{"type": "local", "tag": "b"}}, {{"type": "local", "tag": "a"}},
            {{"type": "fakeip", "tag": "f"}}], "rules": [{rules}]{rest}}}"#
    ))
}

async fn told(resolver: &Arc<dyn Resolve>, name: &str, kind: RecordType) -> String {
    match ask(resolver, &query(1, name, kind)).await {
        Ok(answer) if answer.answers.is_empty() => answer.metadata.response_code.to_string(),
        Ok(answer) => format!("{} {}", addresses(&answer)[0], answer.answers[0].ttl),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn actions() {
    let world = world();
    let resolver = with_rules(
        &world,
        r#"{"domain": "opt", "action": "route-options", "rewrite_ttl": 7},
           {"domain_suffix": "opt", "server": "a"},
           {"query_type": "AAAA", "domain": "both", "action": "predefined", "answer": "both. 5 IN AAAA ::7"},
           {"domain": "refused", "action": "reject"},
           {"domain": "dropped", "action": "reject", "method": "drop"},
           {"domain": "none", "action": "predefined", "rcode": "NXDOMAIN"}"#,
        "",
    );
    for (name, kind, expected) in [
        ("opt.", RecordType::A, "10.0.0.1 7"),
        ("x.opt.", RecordType::A, "10.0.0.1 60"),
        ("other.", RecordType::A, "198.51.100.2 60"),
        ("both.", RecordType::AAAA, "::7 5"),
        ("both.", RecordType::A, "198.51.100.2 60"),
        ("refused.", RecordType::A, "Query Refused"),
        ("dropped.", RecordType::A, "dropped by DNS rule"),
        ("none.", RecordType::A, "Non-Existent Domain"),
    ] {
        assert_eq!(told(&resolver, name, kind).await, expected, "{name}");
    }
    let lookup = async |name: &str| match resolver.lookup(Lookup::new(name)).await {
        Ok(found) => format!("{found:?}"),
        Err(error) => error.to_string(),
    };
    // A rule on the type of a query does not apply to lookups, which are of both.
    assert_eq!(lookup("both").await, "[198.51.100.2]");
    assert_eq!(lookup("refused").await, "lookup refused: rejected by DNS rule");
    assert_eq!(lookup("dropped").await, "dropped by DNS rule");
    assert_eq!(lookup("none").await, "lookup none: no such host");
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_often_gets_no_answer() {
    let world = world();
    let resolver = with_rules(&world, r#"{"domain": "x", "action": "reject"}"#, "");
    for _ in 0..50 {
        assert_eq!(told(&resolver, "x.", RecordType::A).await, "Query Refused");
    }
    assert_eq!(told(&resolver, "x.", RecordType::A).await, "dropped by DNS rule");
}

#[tokio::test(start_paused = true)]
async fn an_answer_must_be_accepted() {
    let world = world();
    let rules = r#"{"ip_cidr": "192.0.2.0/24", "server": "a"}, {"ip_is_private": true, "server": "b"},
        {"ip_accept_any": true, "server": "a", "rewrite_ttl": 9}"#;
    let resolver = with_rules(&world, rules, "");
    for _ in 0..2 {
        assert_eq!(told(&resolver, "x.", RecordType::A).await, "10.0.0.1 9");
    }
    assert_eq!((world.count("a"), world.count("b")), (2, 1));
    assert_eq!(resolver.lookup(Lookup::new("y")).await.unwrap(), [IpAddr::from([10, 0, 0, 1])]);
    // No address is asked for: such rules do not apply.
    assert_eq!(told(&resolver, "x.", RecordType::TXT).await, "No Error");
    assert_eq!(world.servers["b"].last().queries[0].query_type(), RecordType::TXT);
}

/// So many rules that an index decides which of them are looked at.
#[tokio::test(start_paused = true)]
async fn among_many_rules_the_order_counts() {
    let world = world();
    let plain = |from: usize| -> String {
        (from..from + 40).map(|n| format!(r#"{{"domain": "n{n}", "server": "b"}},"#)).collect()
    };
    let rules = format!(
        r#"{}{{"domain_suffix": "x", "ip_cidr": "192.0.2.0/24", "server": "a"}},
            {}{{"domain_suffix": ["x", "y"], "action": "route-options", "rewrite_ttl": 5}},
            {{"ip_cidr": "192.0.2.0/24", "query_type": "A", "server": "b"}},
            {{"type": "logical", "mode": "or", "rules": [{{"domain": "a.y"}}, {{"domain": "x"}}], "server": "a"}},
            {}{{"domain_suffix": "y", "action": "reject"}}"#,
        plain(0),
        plain(40),
        plain(80)
    );
    let resolver = with_rules(&world, &rules, r#", "disable_cache": true"#);
    // The first rule for `x` has a name in one group with its prefix: any answer will do.
    assert_eq!(told(&resolver, "x.", RecordType::A).await, "10.0.0.1 60");
    // Options, then a server whose answer is not accepted, then the next rule, or none.
    assert_eq!(told(&resolver, "a.y.", RecordType::A).await, "10.0.0.1 5");
    assert_eq!((world.count("a"), world.count("b")), (2, 1));
    assert_eq!(told(&resolver, "a.y.", RecordType::AAAA).await, "No Error");
    assert_eq!(told(&resolver, "b.y.", RecordType::A).await, "Query Refused");
    assert_eq!(told(&resolver, "n100.", RecordType::A).await, "198.51.100.2 60");
    assert_eq!(told(&resolver, "other.", RecordType::A).await, "198.51.100.2 60");
}

#[tokio::test]
async fn fake_addresses_are_for_clients_only() {
    let world = world();
    let resolver = with_rules(
        &world,
        r#"{"query_type": ["A", "AAAA"], "server": "f"}, {"domain": "x", "server": "f"}"#,
        "",
    );
    for asked in 1..3 {
        assert_eq!(told(&resolver, "x.", RecordType::A).await, "198.18.0.4 60");
        assert_eq!(world.count("f"), asked, "it is not cached");
    }
    assert_eq!(resolver.lookup(Lookup::new("x")).await.unwrap(), [IpAddr::from([198, 51, 100, 2])]);
    assert_eq!(world.count("f"), 2);
    assert_eq!(resolver.fake_name(v4()), Some(Some("fake.example".into())));
    assert_eq!(resolver.fake_name(v6()), None);
}

#[tokio::test]
async fn an_outbound_may_have_rules_of_its_own() {
    let world = world();
    let resolver =
        with_rules(&world, r#"{"outbound": "any", "server": "a"}"#, r#", "disable_cache": true"#);
    let outbound = Some("proxy");
    let found = resolver.lookup(Lookup { outbound, ..Lookup::new("x") }).await.unwrap();
    assert_eq!(found, [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(resolver.lookup(Lookup::new("x")).await.unwrap(), [IpAddr::from([198, 51, 100, 2])]);
}

#[tokio::test]
async fn clients_are_told_names_of_addresses() {
    let world = world();
    let resolver = with_rules(&world, "", r#", "reverse_mapping": true"#);
    let ip = IpAddr::from([198, 51, 100, 2]);
    assert_eq!(resolver.mapped_name(ip), None);
    told(&resolver, "One.Example.", RecordType::A).await;
    assert_eq!(resolver.mapped_name(ip).as_deref(), Some("one.example"));
    told(&resolver, "two.example.", RecordType::A).await;
    assert_eq!(resolver.mapped_name(ip).as_deref(), Some("two.example"));
    // From the cache, too: the name told last counts.
    told(&resolver, "one.example.", RecordType::A).await;
    assert_eq!(resolver.mapped_name(ip).as_deref(), Some("one.example"));
}

#[tokio::test]
async fn a_rule_set_with_prefixes_looks_at_the_answer() {
    let slot = RuleSetSlot::new("lan");
    let sets = RuleSets::new([slot.clone()], Compat::default());
    let world = world();
    let text = r#"{"dns": {"servers": [{"type": "local", "tag": "b"}, {"type": "local", "tag": "a"}],
        "disable_cache": true, "rules": [{"rule_set": "lan", "server": "a"}]}}"#;
    let resolver = Plan::compile(&config(text), &sets).unwrap().bind(&world.names, &world.keeper);
    assert_eq!(told(&resolver, "x.", RecordType::A).await, "198.51.100.2 60", "the set is empty");
    let rules = config(
        r#"{"route": {"rule_set": [{"type": "inline", "tag": "lan", "rules": [{"ip_cidr": "10.0.0.0/8"}]}]}}"#,
    );
    let Some(rules) = inline(&rules) else { return };
    slot.store(rules);
    assert_eq!(told(&resolver, "x.", RecordType::A).await, "10.0.0.1 60");
}

/// The rules of the first rule-set.
fn inline(config: &Config) -> Option<Arc<Compiled>> {
    use crosspoint_schema::options::RuleSetSource;
    let set = config.route.as_ref()?.rule_set.first()?;
    let RuleSetSource::Inline(inline) = &set.source else { return None };
    let file = crosspoint_schema::options::RuleSetFile { version: 3, rules: inline.clone() };
    Some(Arc::new(Compiled::from_file(file, Compat::default()).ok()?))
}

/// Remembers rejected answers, as a cache file does.
#[derive(Debug, Default)]
struct Rejected(Mutex<Vec<(String, String, u16)>>);

impl crosspoint_kernel::state::State for Rejected {
    fn selected(&self, _: &str) -> Option<String> {
        None
    }
    fn select(&self, _: &str, _: &str) {}
    fn choices(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn expanded(&self, _: &str) -> Option<bool> {
        None
    }
    fn set_expanded(&self, _: &str, _: bool) {}
    fn clash_mode(&self) -> Option<String> {
        None
    }
    fn set_clash_mode(&self, _: &str) {}
    fn rule_set(&self, _: &str) -> Option<crosspoint_kernel::state::SavedRuleSet> {
        None
    }
    fn save_rule_set(&self, _: &str, _: crosspoint_kernel::state::SavedRuleSet) {}
    fn keeps_rejected(&self) -> bool {
        true
    }
    fn rejected(&self, server: &str, name: &str, qtype: u16) -> bool {
        self.0.lock().contains(&(server.to_owned(), name.to_owned(), qtype))
    }
    fn reject(&self, server: &str, name: &str, qtype: u16) {
        self.0.lock().push((server.to_owned(), name.to_owned(), qtype));
    }
}

#[tokio::test]
async fn rejected_answers_are_not_asked_for_again() {
    let mut world = world();
    let state = Arc::new(Rejected::default());
    let as_state: Arc<dyn crosspoint_kernel::state::State> = state.clone();
    Arc::get_mut(&mut world.names).unwrap().state = as_state.into();
    let rules = r#"{"ip_cidr": "192.0.2.0/24", "server": "a"}"#;
    let resolver = with_rules(&world, rules, "");
    for _ in 0..2 {
        assert!(told(&resolver, "X.y.", RecordType::A).await.starts_with("198.51.100.2"));
        resolver.flush();
    }
    assert_eq!((world.count("a"), world.count("b")), (1, 2));
    assert_eq!(*state.0.lock(), [("a".to_owned(), "x.y.".to_owned(), 1)]);
    // Who bypasses the cache asks again, and nothing is remembered.
    let uncached = r#"{"ip_cidr": "192.0.2.0/24", "server": "a", "disable_cache": true}"#;
    let resolver = with_rules(&world, uncached, "");
    told(&resolver, "x.y.", RecordType::A).await;
    assert_eq!((world.count("a"), state.0.lock().len()), (2, 1));
}
