//! What a rule-set does to the rule that refers to it.

use super::*;

const BOTH: [Compat; 2] = [
    Compat { flag_leak: false, no_query_type: false },
    Compat { flag_leak: true, no_query_type: true },
];

#[track_caller]
fn check(sets: &RuleSets, options: &str, matching: &[&str], other: &[&str]) {
    for connection in matching {
        assert!(matches(options, sets, connection), "{options} on {connection}");
    }
    for connection in other {
        assert!(!matches(options, sets, connection), "{options} on {connection}");
    }
}

#[test]
fn one_rule_of_one_set_is_enough() {
    for compat in BOTH {
        let sets = sets(
            compat,
            &[("a", r#"{"domain": "a"}, {"ip_cidr": "10.0.0.0/8"}"#), ("b", r#"{"port": 53}"#)],
        );
        check(
            &sets,
            r#"{"rule_set": ["a", "b"]}"#,
            &["tcp a:1", "tcp 10.1.1.1:1", "tcp x:53", "tcp x:1 ip=10.1.1.1"],
            &["tcp x:1", "tcp 11.1.1.1:1"],
        );
        check(&sets, r#"{"rule_set": "a", "invert": true}"#, &["tcp x:1"], &["tcp a:1"]);
        check(&sets, r#"{"rule_set": "a", "network": "udp"}"#, &["udp a:1"], &["tcp a:1"]);
    }
}

#[test]
fn groups_are_shared_with_the_referring_rule() {
    for compat in BOTH {
        let sets = sets(
            compat,
            &[
                ("b", r#"{"domain": "b"}"#),
                ("b80", r#"{"domain": "b", "port": 80}"#),
                ("net", r#"{"network": "tcp"}"#),
            ],
        );
        // One group: the domain of the rule or that of the set.
        check(&sets, r#"{"domain": "a", "rule_set": "b"}"#, &["tcp a:1", "tcp b:1"], &["tcp c:1"]);
        check(
            &sets,
            r#"{"domain": "a", "rule_set": "b80"}"#,
            &["tcp a:80", "tcp b:80"],
            &["tcp a:1", "tcp b:1", "tcp c:80"],
        );
        check(
            &sets,
            r#"{"domain": "a", "port": 1, "rule_set": "b80"}"#,
            &["tcp a:1", "tcp a:80", "tcp b:1", "tcp b:80"],
            &["tcp a:2", "tcp c:1"],
        );
        // What the set does not look at stays with the rule.
        check(
            &sets,
            r#"{"domain": "a", "rule_set": "net"}"#,
            &["tcp a:1"],
            &["tcp b:1", "udp a:1"],
        );
    }
}

/// A rule that fails leaves nothing behind, unless the reference's bug is asked for.
#[test]
fn the_flag_leak() {
    let rules = [("s", r#"{"domain": "a", "port": 80}, {"domain": "b", "port": 443}"#)];
    let leaking = Compat { flag_leak: true, ..Compat::default() };
    for (compat, leaks) in [(Compat::default(), false), (leaking, true)] {
        let sets = sets(compat, &rules);
        check(
            &sets,
            r#"{"rule_set": "s"}"#,
            &["tcp a:80", "tcp b:443"],
            &["tcp c:80", "tcp c:443"],
        );
        for mixed in ["tcp a:443", "tcp b:80"] {
            assert_eq!(matches(r#"{"rule_set": "s"}"#, &sets, mixed), leaks);
        }
    }
}

#[test]
fn query_types() {
    let rules = [("s", r#"{"query_type": "A"}"#)];
    let sets_of = |no_query_type| sets(Compat { no_query_type, ..Compat::default() }, &rules);
    let query = |sets: &RuleSets, kind| {
        dns_rule(r#"{"rule_set": "s"}"#, sets).matches(&Facts::query(None, "x.", kind))
    };
    assert!(query(&sets_of(false), 1) && !query(&sets_of(false), 28));
    assert!(!matches(r#"{"rule_set": "s"}"#, &sets_of(false), "tcp x:1"));
    // In the reference such a rule always matches.
    assert!(query(&sets_of(true), 28));
    assert!(matches(r#"{"rule_set": "s", "invert": true}"#, &sets_of(true), "tcp x:1"));
}

#[test]
fn prefixes_of_the_source() {
    let sets = sets(Compat::default(), &[("s", r#"{"ip_cidr": "10.0.0.0/8"}"#)]);
    for key in ["rule_set_ip_cidr_match_source", "rule_set_ipcidr_match_source"] {
        check(
            &sets,
            &format!(r#"{{"rule_set": "s", "{key}": true}}"#),
            &["tcp x:1 from=10.1.1.1:1"],
            &["tcp 10.1.1.1:1"],
        );
    }
    // In a group with the destination of the rule nevertheless.
    check(
        &sets,
        r#"{"rule_set": "s", "domain": "a", "rule_set_ip_cidr_match_source": true}"#,
        &["tcp a:1", "tcp x:1 from=10.1.1.1:1"],
        &["tcp x:1"],
    );
}

#[test]
fn logical_rules_in_a_set() {
    for compat in BOTH {
        let sets = sets(
            compat,
            &[
                (
                    "s",
                    r#"{"type": "logical", "mode": "and", "rules": [{"domain_suffix": "x"}, {"port": 80, "invert": true}]}"#,
                ),
                (
                    "or",
                    r#"{"type": "logical", "mode": "or", "rules": [{"domain": "a"}, {"domain": "b"}]}"#,
                ),
            ],
        );
        check(&sets, r#"{"rule_set": "s"}"#, &["tcp a.x:1"], &["tcp a.x:80", "tcp y:1"]);
        // A branch begins anew and what it finds is what the rule sees: the rule's own domain is forgotten.
        check(&sets, r#"{"rule_set": "or", "domain": "c"}"#, &["tcp a:1", "tcp b:1"], &["tcp c:1"]);
    }
}

#[test]
fn nothing_matches_what_is_not_loaded() {
    let slot = RuleSetSlot::new("s");
    let sets = RuleSets::new([slot.clone()], Compat::default());
    let rule = rule(&decode(r#"{"rule_set": "s"}"#), &sets);
    let session = session("tcp a:1");
    let mut changes = slot.subscribe();
    assert!(!rule.matches(&facts(&session)) && !changes.has_changed().unwrap());
    slot.store(Arc::new(
        Compiled::from_file(file(r#"{"domain": "a"}"#), Compat::default()).unwrap(),
    ));
    assert!(rule.matches(&facts(&session)) && changes.has_changed().unwrap());
    assert_eq!((*changes.borrow_and_update(), slot.generation()), (1, 1));
    assert!(!rule.needs_process() && rule.missing_rule_set().is_none());
    let other = file(r#"{"process_name": "a"}"#);
    slot.store(Arc::new(Compiled::from_file(other, Compat::default()).unwrap()));
    assert!(!rule.matches(&facts(&session)) && rule.needs_process());
}

#[test]
fn errors_of_the_reference() {
    for (rules, text) in [
        (r#"{"domain": "a"}, {}"#, "parse rule_set.rules.[1]: missing conditions"),
        (r#"{"invert": true}"#, "parse rule_set.rules.[0]: missing conditions"),
        (
            r#"{"ip_cidr": "x"}"#,
            r#"parse rule_set.rules.[0]: ipcidr: parse [0]: netip.ParsePrefix("x"): no '/'"#,
        ),
        (
            r#"{"type": "logical", "mode": "xor", "rules": [{"port": 1}]}"#,
            "parse rule_set.rules.[0]: unknown logical mode: xor",
        ),
        (
            r#"{"type": "logical", "mode": "or", "rules": [{"port": 1}, {"domain_regex": "("}]}"#,
            "parse rule_set.rules.[0]: sub rule[1]: domain_regex: parse expression 0: error parsing regexp: missing closing ): `(`",
        ),
    ] {
        let error = Compiled::from_file(file(rules), Compat::default()).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn one_rule_at_a_time() {
    let rules = r#"{"domain": "a"}, {"ip_cidr": "10.0.0.0/8"}, {"domain_keyword": ["A", "a"]}, {"port": 80}"#;
    let set = Compiled::from_file(file(rules), Compat::default()).unwrap();
    let matching = |text| set.matching(&Facts::destination(text)).collect::<Vec<_>>();
    assert_eq!(matching("A"), [0, 2]);
    assert_eq!(matching("10.0.0.1"), [1]);
    assert_eq!(matching("::ffff:10.0.0.1"), [1]);
    assert!(set.has_ip_cidr() && !set.needs_process() && !set.needs_wifi());
}
