//! Rules for DNS queries, before and after the answer.

use std::net::IpAddr;

use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;
const TXT: u16 = 16;

#[track_caller]
fn before(options: &str, query: (&str, u16), expected: bool) {
    let matcher = dns_rule(options, &RuleSets::default());
    assert_eq!(
        matcher.matches(&Facts::query(None, query.0, query.1)),
        expected,
        "{options} {query:?}"
    );
}

/// Whether a rule takes a query, and then an answer with these addresses.
fn answered(matcher: &DnsMatcher, name: &str, answer: &[&str]) -> (bool, bool) {
    let answer: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
    let facts = Facts::query(None, name, A);
    let taken = matcher.matches(&facts);
    (taken, matcher.matches_address_limit(&facts.with_answer(&answer)))
}

#[test]
fn queries() {
    before(r#"{"domain": "a.example"}"#, ("A.example.", A), true);
    before(r#"{"domain_suffix": "example"}"#, ("a.example", TXT), true);
    before(r#"{"query_type": ["A", 16]}"#, ("x", TXT), true);
    before(r#"{"query_type": ["A", 16]}"#, ("x", AAAA), false);
    before(r#"{"query_type": "A"}"#, ("x", 0), false);
    before(r#"{"ip_version": 6}"#, ("x", AAAA), true);
    before(r#"{"ip_version": 6}"#, ("x", A), false);
    before(r#"{"ip_version": 4}"#, ("x", TXT), false);
    // Nothing is known of a client.
    before(r#"{"inbound": "in"}"#, ("x", A), false);
    before(r#"{"network": ["tcp", "udp"]}"#, ("x", A), false);
    before(r#"{"source_ip_is_private": true}"#, ("x", A), false);
    before(r#"{"port": 53}"#, ("x", A), false);
    before("{}", ("x", A), true);
    before(
        r#"{"type": "logical", "mode": "or", "rules": [{"domain": "a"}, {"query_type": "TXT"}], "invert": true}"#,
        ("a", A),
        false,
    );
}

#[test]
fn with_a_client() {
    let sets = RuleSets::default();
    let session = session("udp 192.0.2.53:53 from=10.0.0.1:999 in=tun user=me domain=sniffed");
    for (options, expected) in [
        (r#"{"inbound": "tun", "auth_user": "me", "network": "udp"}"#, true),
        (r#"{"source_ip_cidr": "10.0.0.0/8", "source_port": 999}"#, true),
        (r#"{"domain": "sniffed"}"#, false),
        (r#"{"port": 53}"#, false),
        (r#"{"ip_version": 4}"#, true),
        (r#"{"ip_cidr": "192.0.2.0/24", "query_type": "TXT"}"#, true),
    ] {
        let matcher = dns_rule(options, &sets);
        let facts = Facts::query(Some(&session), "x", TXT);
        assert_eq!(matcher.matches(&facts), expected, "{options}");
        // The destination of the client is not an address of the answer.
        let limit = matcher.has_address_limit();
        assert_eq!(matcher.matches_address_limit(&facts), expected && !limit, "{options}");
    }
}

#[test]
fn for_an_outbound() {
    let sets = RuleSets::default();
    let query = || Facts::query(None, "x", A);
    for (options, tag, expected) in [
        (r#"{"outbound": "any"}"#, "a", true),
        (r#"{"outbound": ["a", "b"]}"#, "a", true),
        (r#"{"outbound": ["a", "b"]}"#, "c", false),
    ] {
        let matcher = dns_rule(options, &sets);
        assert_eq!(matcher.matches(&query().with_outbound(tag)), expected, "{options} {tag}");
        assert!(!matcher.matches(&query()), "{options}");
    }
}

#[test]
fn address_limits() {
    let sets = RuleSets::default();
    for (options, accepted, refused) in [
        (r#"{"ip_cidr": "10.0.0.0/8"}"#, &["1.1.1.1", "10.0.0.1"][..], &["1.1.1.1"][..]),
        (r#"{"ip_cidr": "10.0.0.0/8", "invert": true}"#, &["1.1.1.1"], &["10.0.0.1"]),
        (r#"{"ip_is_private": true}"#, &["192.168.1.1"], &["1.1.1.1"]),
        (r#"{"ip_accept_any": true}"#, &["1.1.1.1"], &[]),
        (
            r#"{"ip_cidr": "10.0.0.0/8", "ip_accept_any": true, "query_type": "A"}"#,
            &["1.1.1.1"],
            &[],
        ),
        (
            r#"{"type": "logical", "mode": "and", "rules": [{"domain": "x"}, {"ip_cidr": "10.0.0.0/8"}]}"#,
            &["10.0.0.1"],
            &["1.1.1.1"],
        ),
    ] {
        let matcher = dns_rule(options, &sets);
        assert!(matcher.has_address_limit(), "{options}");
        assert_eq!(answered(&matcher, "x", accepted), (true, true), "{options} {accepted:?}");
        assert_eq!(answered(&matcher, "x", refused), (true, false), "{options} {refused:?}");
    }
    // With a name the prefixes are one group: the name has matched, so any address will do.
    let matcher = dns_rule(r#"{"domain": "x", "ip_cidr": "10.0.0.0/8"}"#, &sets);
    assert_eq!(answered(&matcher, "x", &["1.1.1.1"]), (true, true));
    assert!(!answered(&matcher, "y", &["10.0.0.1"]).0);
    assert!(!dns_rule(r#"{"domain": "x"}"#, &sets).has_address_limit());
}

#[test]
fn address_limits_of_rule_sets() {
    let set = [("s", r#"{"ip_cidr": "10.0.0.0/8"}"#), ("names", r#"{"domain": "a"}"#)];
    let sets = sets(Compat::default(), &set);
    let matcher = dns_rule(r#"{"rule_set": ["names", "s"]}"#, &sets);
    assert!(matcher.has_address_limit());
    assert_eq!(answered(&matcher, "a", &["1.1.1.1"]), (true, true));
    assert_eq!(answered(&matcher, "b", &["10.1.1.1"]), (true, true));
    assert_eq!(answered(&matcher, "b", &["1.1.1.1"]), (true, false));
    assert_eq!(answered(&matcher, "b", &[]), (true, false));
    let inverted = dns_rule(r#"{"rule_set": ["names", "s"], "invert": true}"#, &sets);
    assert!(!answered(&inverted, "a", &["1.1.1.1"]).0);
    assert_eq!(answered(&inverted, "b", &["10.1.1.1"]), (true, false));
    assert_eq!(answered(&inverted, "b", &["1.1.1.1"]), (true, true));
    let empty = dns_rule(r#"{"rule_set": "s", "rule_set_ip_cidr_accept_empty": true}"#, &sets);
    assert_eq!(answered(&empty, "b", &[]), (true, true));
    assert_eq!(answered(&empty, "b", &["1.1.1.1"]), (true, false));
    let source = dns_rule(r#"{"rule_set": "s", "rule_set_ip_cidr_match_source": true}"#, &sets);
    assert!(!source.has_address_limit());
    assert!(!dns_rule(r#"{"rule_set": "names"}"#, &sets).has_address_limit());
}

#[test]
fn errors_of_the_reference() {
    for (options, text, path) in [
        (r#"{"type": "logical", "mode": "and"}"#, "missing conditions", ""),
        (r#"{"ip_version": 5}"#, "invalid ip version: 5", ".ip_version"),
        (
            r#"{"ip_cidr": "x"}"#,
            r#"ip_cidr: parse [0]: netip.ParsePrefix("x"): no '/'"#,
            ".ip_cidr",
        ),
        (
            r#"{"geosite": "cn"}"#,
            "geosite database is deprecated in sing-box 1.8.0 and removed in sing-box 1.12.0",
            ".geosite",
        ),
        (
            r#"{"type": "logical", "mode": "or", "rules": [{}, {"port_range": "1-2"}]}"#,
            "sub rule[1]: port_range: bad port range: 1-2",
            ".rules[1].port_range",
        ),
    ] {
        let refusal = DnsMatcher::compile(&decode(options), &RuleSets::default()).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.path.as_str()), (text, path));
    }
    let missing = dns_rule(r#"{"rule_set": ["zz", "y"]}"#, &RuleSets::default());
    assert_eq!(missing.missing_rule_set(), Some("zz"));
    assert_eq!(missing.rule_sets(), ["zz", "y"]);
}
