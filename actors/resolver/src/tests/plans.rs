use super::*;

fn refused(dns: &str) -> (String, String) {
    let error = plan(dns).unwrap_err();
    (error.summary(), error.path)
}

#[test]
fn references_and_where_they_are() {
    let plan = plan(&format!(
        r#"{{"servers": {SERVERS}, "rules": [{{"domain": "x", "server": "d"}}], "final": "c"}}"#
    ))
    .unwrap();
    let references = format!("{:?}", plan.references());
    assert_eq!(
        references,
        r#"[(DnsServer("d"), "dns.rules[0].server"), (DnsServer("c"), "dns.final")]"#
    );
    assert!(Plan::compile(&Config::default(), &sets()).unwrap().references().is_empty());
}

#[test]
fn what_the_reference_refuses() {
    for (rule, message, path) in [
        (r#"{"domain": "x"}"#, "missing server field", ""),
        (r#"{"domain_regex": "[", "action": "route"}"#, "missing server field", ""),
        (r#"{"type": "logical", "mode": "and", "rules": []}"#, "missing conditions", ""),
        (r#"{"ip_version": 5, "server": "a"}"#, "invalid ip version: 5", ".ip_version"),
        (
            r#"{"type": "logical", "mode": "or", "rules": [{"geosite": "x"}], "server": "a"}"#,
            "sub rule[0]: geosite database is deprecated in sing-box 1.8.0 and removed in sing-box 1.12.0",
            ".rules[0].geosite",
        ),
    ] {
        let (text, at) = refused(&format!(r#"{{"rules": [{rule}]}}"#));
        assert_eq!(text, format!("initialize dns router: parse dns rule[0]: {message}"));
        assert_eq!(at, format!("dns.rules[0]{path}"));
    }
    let fake = r#"{"type": "fakeip", "tag": "f"}"#;
    for (servers, message) in [
        (fake.to_owned(), "initialize DNS server[0]: default server cannot be fakeip"),
        (
            format!(r#"{{"type": "local"}}, {fake}, {{"type": "fakeip", "tag": "g"}}"#),
            "initialize DNS server[2]: multiple fakeip server are not supported",
        ),
        (
            format!(r#"{{"type": "group", "servers": ["f"]}}, {fake}"#),
            "initialize DNS server[0]: a group cannot have a fakeip server",
        ),
    ] {
        assert_eq!(refused(&format!(r#"{{"servers": [{servers}]}}"#)).0, message);
    }
    let conflict = r#"{"optimistic": true, "disable_cache": true}"#;
    assert_eq!(refused(conflict).1, "dns.optimistic");
    assert!(plan(r#"{"optimistic": false, "disable_cache": true}"#).is_ok());
}

#[test]
fn what_is_found_at_start() {
    let dns = format!(
        r#"{{"servers": {SERVERS}, "rules": [{{"rule_set": "lan", "server": "a"}}, {{"rule_set": "zz", "server": "a"}}]}}"#
    );
    let error = plan(&dns).unwrap().missing_rule_set().unwrap();
    assert!(error.summary().contains("initialize DNS rule[1]: rule-set not found: zz"));
    assert_eq!(error.path, "dns.rules[1].rule_set");
}
