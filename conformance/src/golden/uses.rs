//! Which parts of a build a configuration needs: the reason a vector is pending.

use std::collections::BTreeSet;

use serde_json::Value;

/// Names like `inbound/vmess`, `tls`, `transport/grpc`, `experimental/clash_api` of everything
/// that `config` uses, sorted. A configuration that is not JSON uses nothing.
pub fn uses(config: &str) -> BTreeSet<String> {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let mut found = BTreeSet::new();
    for (list, kind) in [
        ("inbounds", "inbound"),
        ("outbounds", "outbound"),
        ("endpoints", "endpoint"),
        ("services", "service"),
    ] {
        for item in config[list].as_array().into_iter().flatten() {
            note_type(kind, item, &mut found);
            shared_blocks(item, &mut found);
        }
    }
    if !config["dns"].is_null() {
        found.insert("dns".to_owned());
    }
    for server in config["dns"]["servers"].as_array().into_iter().flatten() {
        note_type("dns", server, &mut found);
        shared_blocks(server, &mut found);
    }
    if config["route"]["rule_set"].is_array() {
        found.insert("rule-set".to_owned());
    }
    for section in ["certificate", "ntp", "route"] {
        if !config[section].is_null() {
            found.insert(section.to_owned());
        }
    }
    for name in config["experimental"].as_object().into_iter().flat_map(|o| o.keys()) {
        found.insert(format!("experimental/{name}"));
    }
    found
}

fn note_type(kind: &str, item: &Value, found: &mut BTreeSet<String>) {
    found.insert(format!("{kind}/{}", item["type"].as_str().unwrap_or("legacy")));
}

fn shared_blocks(item: &Value, found: &mut BTreeSet<String>) {
    for block in ["tls", "multiplex"] {
        if !item[block].is_null() {
            found.insert(block.to_owned());
        }
    }
    if !item["transport"].is_null() {
        note_type("transport", &item["transport"], found);
    }
}
