//! Rule lists and connections that meet often enough to matter.

use crosspoint_conformance::net::Target;
use serde_json::{Map, Value, json};

/// Tags of the outbounds; the last one is for what no rule decides.
pub(super) const OUTBOUNDS: [&str; 6] = ["o0", "o1", "o2", "o3", "o4", "final"];

const NAMES: [&str; 12] = [
    "a.test",
    "A.Test",
    "b.test",
    "c.b.test",
    "test",
    "q.example",
    "www.q.example",
    "12a.test",
    "xn--fsq.test",
    "long-label-of-some-name.example",
    "example",
    "b.test.example",
];

const ADDRESSES: [&str; 12] = [
    "10.1.2.3",
    "10.200.0.1",
    "192.0.2.7",
    "8.8.8.8",
    "2001:db8::1",
    "::1",
    "fd00::1",
    "127.0.0.9",
    "172.16.5.5",
    "224.0.0.5",
    "2001:db8:1::7",
    "198.51.100.1",
];

const PORTS: [u16; 6] = [80, 81, 443, 79, 1000, 65535];

/// A small generator with a known sequence.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn some<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        (0..1 + self.below(3)).map(|_| self.pick(from)).collect()
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) inbound: usize,
    pub(super) user: Option<&'static str>,
    pub(super) udp: bool,
    pub(super) target: Target,
}

impl Connection {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let inbound = rng.below(2);
        let user = (inbound == 1).then(|| rng.pick(&["ann", "bob"]));
        let port = rng.pick(&PORTS);
        let target = match rng.once_in(2) {
            true => Target::Name(rng.pick(&NAMES).to_owned(), port),
            false => Target::Addr(
                (rng.pick(&ADDRESSES).parse::<std::net::IpAddr>().unwrap(), port).into(),
            ),
        };
        Self { inbound, user, udp: rng.once_in(12), target }
    }
}

/// What the hosts server knows, for `resolve`.
pub(super) fn hosts() -> Value {
    let mut hosts = Map::new();
    for (n, name) in NAMES.iter().enumerate() {
        let addresses = [ADDRESSES[n], ADDRESSES[(n + 5) % ADDRESSES.len()]];
        hosts.insert(name.to_lowercase(), json!(addresses[..1 + n % 2]));
    }
    hosts.into()
}

/// The `route` section.
pub(super) fn route(rng: &mut Rng) -> Value {
    let sets: Vec<Value> = (0..4)
        .map(|n| {
            let rules: Vec<Value> = (0..1 + rng.below(3)).map(|_| headless(rng, 0)).collect();
            json!({ "tag": format!("set{n}"), "type": "inline", "rules": rules })
        })
        .collect();
    let mut rules = Vec::new();
    if rng.once_in(3) {
        rules.push(json!({ "action": "resolve" }));
    }
    // Both few, which are looked at one by one, and many, which are looked up.
    let count = rng.pick(&[4, 12, 40, 80]);
    for n in 0..count {
        rules.push(rule(rng, n, count));
    }
    json!({ "rules": rules, "rule_set": sets, "final": "final" })
}

fn rule(rng: &mut Rng, at: usize, of: usize) -> Value {
    let mut rule = condition(rng, 0, of > 20);
    let action = match rng.below(24) {
        0 => json!({ "action": "reject", "network": "tcp", "no_drop": true }),
        1 => json!({ "action": "route-options", "override_port": rng.pick(&PORTS) }),
        2 => {
            json!({ "action": "route-options", "override_address": rng.pick(&["10.1.2.3", "b.test"]) })
        }
        3 if at > of / 2 => {
            json!({ "action": "resolve", "strategy": rng.pick(&["ipv4_only", "prefer_ipv6"]) })
        }
        4 => {
            json!({ "action": "route", "outbound": rng.pick(&OUTBOUNDS), "override_port": rng.pick(&PORTS) })
        }
        _ => json!({ "action": "route", "outbound": rng.pick(&OUTBOUNDS) }),
    };
    let (Some(into), Value::Object(action)) = (rule.as_object_mut(), action) else { return rule };
    // A logical rule has no matcher of its own: "TCP only" is one more part of it.
    if into.contains_key("rules") && action.contains_key("network") {
        let inner = std::mem::take(into);
        into.insert("type".into(), "logical".into());
        into.insert("mode".into(), "and".into());
        into.insert("rules".into(), json!([inner, { "network": "tcp" }]));
        into.extend(action.into_iter().filter(|(key, _)| key != "network"));
    } else if into.get("invert").is_some() && action.contains_key("network") {
        let inner = std::mem::take(into);
        into.insert("type".into(), "logical".into());
        into.insert("mode".into(), "and".into());
        into.insert("rules".into(), json!([inner, { "network": "tcp" }]));
        into.extend(action.into_iter().filter(|(key, _)| key != "network"));
    } else {
        into.extend(action);
    }
    rule
}

fn condition(rng: &mut Rng, depth: usize, narrow: bool) -> Value {
    if depth < 2 && rng.once_in(5) {
        let rules: Vec<Value> =
            (0..1 + rng.below(3)).map(|_| condition(rng, depth + 1, narrow)).collect();
        let mut rule =
            json!({ "type": "logical", "mode": rng.pick(&["and", "or"]), "rules": rules });
        if rng.once_in(5) {
            rule["invert"] = json!(true);
        }
        return rule;
    }
    let mut rule = Map::new();
    for _ in 0..1 + rng.below(if narrow { 4 } else { 3 }) {
        match rng.below(9) {
            0 => rule.insert("inbound".into(), json!(rng.some(&["in0", "in1", "none"]))),
            1 => rule.insert("auth_user".into(), json!(rng.some(&["ann", "bob", "eve"]))),
            2 => rule.insert("ip_version".into(), json!(rng.pick(&[4, 6]))),
            3 => {
                rule.insert("rule_set".into(), json!(rng.some(&["set0", "set1", "set2", "set3"])));
                rng.once_in(4)
                    .then(|| rule.insert("rule_set_ip_cidr_match_source".into(), json!(true)))
                    .flatten()
            }
            4 => rule.insert("ip_is_private".into(), json!(true)),
            _ => plain(rng, &mut rule),
        };
    }
    if rng.once_in(8) && !narrow {
        rule.insert("invert".into(), json!(true));
    }
    Value::Object(rule)
}

fn headless(rng: &mut Rng, depth: usize) -> Value {
    if depth < 1 && rng.once_in(5) {
        let rules: Vec<Value> = (0..1 + rng.below(3)).map(|_| headless(rng, depth + 1)).collect();
        return json!({ "type": "logical", "mode": rng.pick(&["and", "or"]), "rules": rules });
    }
    let mut rule = Map::new();
    for _ in 0..1 + rng.below(3) {
        plain(rng, &mut rule);
    }
    if rng.once_in(8) {
        rule.insert("invert".into(), json!(true));
    }
    Value::Object(rule)
}

/// A matcher that rules and rule-sets share.
fn plain(rng: &mut Rng, rule: &mut Map<String, Value>) -> Option<Value> {
    match rng.below(10) {
        0 => rule
            .insert("domain".into(), json!(rng.some(&["a.test", "b.test", "TEST", "q.example"]))),
        1 => rule.insert(
            "domain_suffix".into(),
            json!(rng.some(&["test", ".test", "b.test", ".b.test", "example", "q.example"])),
        ),
        2 => rule.insert("domain_keyword".into(), json!(rng.some(&["b", "q.", "label", "zz"]))),
        3 => rule.insert(
            "domain_regex".into(),
            json!(rng.some(&[r"^\d+a", r"test$", r"^[^.]+\.test$", "(?i)A\\.TEST"])),
        ),
        4 | 5 => rule.insert(
            "ip_cidr".into(),
            json!(rng.some(&[
                "10.0.0.0/8",
                "10.1.2.3",
                "2001:db8::/32",
                "192.0.2.0/24",
                "::/0",
                "0.0.0.0/1"
            ])),
        ),
        6 => rule.insert("source_ip_cidr".into(), json!(rng.some(&["127.0.0.0/8", "10.0.0.0/8"]))),
        7 => rule.insert("port".into(), json!(rng.some(&PORTS))),
        8 => rule
            .insert("port_range".into(), json!(rng.some(&["80:90", ":79", "444:", "1000:1000"]))),
        _ => rule.insert("network".into(), json!(rng.pick(&["tcp", "udp"]))),
    }
}
