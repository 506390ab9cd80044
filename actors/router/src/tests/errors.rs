//! What is refused, in which words, and where.

use super::*;

#[track_caller]
fn check(route: &str, text: &str, path: &str) {
    let error = compile(route).err().unwrap_or_else(|| panic!("{route} compiles"));
    assert_eq!((error.summary().as_str(), error.path.as_str()), (text, path), "{route}");
}

#[track_caller]
fn rule(rule: &str, text: &str, key: &str) {
    check(
        &format!(r#"{{"rules": [{{}}, {rule}]}}"#),
        &format!("initialize router: parse rule[1]: {text}"),
        &format!("route.rules[1]{key}"),
    );
}

#[test]
fn errors_of_the_reference() {
    rule(r#"{"ip_version": 5}"#, "invalid ip version: 5", ".ip_version");
    rule(
        r#"{"ip_cidr": ["1.1.1.1", "x"]}"#,
        r#"ipcidr: parse [1]: netip.ParsePrefix("x"): no '/'"#,
        ".ip_cidr",
    );
    rule(
        r#"{"source_ip_cidr": "1.1.1.1/40"}"#,
        r#"source_ip_cidr: parse [0]: netip.ParsePrefix("1.1.1.1/40"): prefix length out of range"#,
        ".source_ip_cidr",
    );
    rule(r#"{"port_range": "1-2"}"#, "port_range: bad port range: 1-2", ".port_range");
    rule(
        r#"{"source_port_range": "x"}"#,
        "source_port_range: bad port range: x",
        ".source_port_range",
    );
    rule(r#"{"domain": ["a", ""]}"#, "domain: empty item is not allowed", ".domain");
    rule(
        r#"{"domain_suffix": [""]}"#,
        "domain_suffix: empty item is not allowed",
        ".domain_suffix",
    );
    rule(
        r#"{"domain_regex": ["a", "("]}"#,
        "domain_regex: parse expression 1: error parsing regexp: missing closing ): `(`",
        ".domain_regex",
    );
    rule(
        r#"{"process_path_regex": "*"}"#,
        "process_path_regex: parse expression 0: error parsing regexp: missing argument to repetition operator: `*`",
        ".process_path_regex",
    );
    for (key, database) in [("geoip", "geoip"), ("source_geoip", "geoip"), ("geosite", "geosite")] {
        let text = format!(
            "{database} database is deprecated in sing-box 1.8.0 and removed in sing-box 1.12.0"
        );
        rule(&format!(r#"{{"{key}": "cn"}}"#), &text, &format!(".{key}"));
    }
    rule(
        r#"{"action": "sniff", "sniffer": ["tls", "x"]}"#,
        "action: unknown sniffer: x",
        ".sniffer",
    );
    rule(
        r#"{"action": "direct", "bind_interface": "lo", "network_strategy": "hybrid"}"#,
        "action: `network_strategy` is conflict with `bind_interface`, `inet4_bind_address`, `inet6_bind_address` and `tcp_fast_open`",
        ".network_strategy",
    );
}

#[test]
fn logical_rules() {
    rule(
        r#"{"type": "logical", "mode": "xor", "rules": [{"port": 1}]}"#,
        "unknown logical mode: xor",
        ".mode",
    );
    rule(r#"{"type": "logical", "mode": "and"}"#, "missing conditions", "");
    rule(
        r#"{"type": "logical", "mode": "and", "rules": [{"port": 1}, {"type": "logical", "mode": "or"}]}"#,
        "missing conditions",
        "",
    );
    rule(
        r#"{"type": "logical", "mode": "and", "rules": [{"port": 1}, {"type": "logical", "mode": "or", "rules": [{"ip_version": 7}]}]}"#,
        "sub rule[1]: sub rule[0]: invalid ip version: 7",
        ".rules[1].rules[0].ip_version",
    );
    rule(
        r#"{"type": "logical", "mode": "or", "rules": [{"action": "sniff", "sniffer": "x"}]}"#,
        "sub rule[0]: action: unknown sniffer: x",
        ".rules[0].sniffer",
    );
}

/// Found at start, when everything else is right.
#[test]
fn a_rule_set_that_does_not_exist() {
    let rules = compile(
        r#"{"rules": [{}, {"type": "logical", "mode": "or", "rules": [{}, {"rule_set": ["zz", "x"]}]}, {"rule_set": "y"}]}"#,
    )
    .unwrap();
    let error = rules.missing_rule_set().unwrap();
    assert_eq!(error.summary(), "start service: initialize rule[1]: rule-set not found: zz");
    assert_eq!(error.path, "route.rules[1].rule_set");
    assert!(super::rules("{}").missing_rule_set().is_none());
}

#[test]
fn the_network_manager() {
    for (route, text, path) in [
        (
            r#"{"default_network_strategy": "hybrid"}"#,
            "`auto_detect_interface` is required by `default_network_strategy`",
            "default_network_strategy",
        ),
        (
            r#"{"default_network_strategy": "hybrid", "default_interface": "lo"}"#,
            "`default_network_strategy` is conflict with `default_interface`",
            "default_network_strategy",
        ),
        (
            r#"{"override_android_vpn": true}"#,
            "`override_android_vpn` is only supported on Android",
            "override_android_vpn",
        ),
    ] {
        check(route, &format!("initialize network manager: {text}"), &format!("route.{path}"));
    }
}

#[test]
fn tags_that_rules_refer_to() {
    let rules = compile(
        r#"{"final": "f", "rules": [{"outbound": "a"}, {}, {"action": "resolve", "server": "d"}, {"action": "resolve"},
            {"type": "logical", "mode": "or", "rules": [{"outbound": "ignored"}], "outbound": "b"}]}"#,
    )
    .unwrap();
    let references: Vec<String> =
        rules.references().into_iter().map(|(dep, path)| format!("{dep:?} {path}")).collect();
    assert_eq!(
        references,
        [
            r#"Outbound("a") route.rules[0].outbound"#,
            r#"DnsServer("d") route.rules[2].server"#,
            r#"Outbound("b") route.rules[4].outbound"#,
            r#"Outbound("f") route.final"#,
        ]
    );
}

#[test]
fn without_default_outbound() {
    assert!(rules("{}").bind(&Namespace::default()).is_err());
}
