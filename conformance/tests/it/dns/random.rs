//! Random DNS rules and random queries: the reference and we must ask the same server and say the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use crosspoint_conformance::{loud, ports};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::client::Ask;
use super::origin::Origin;

/// Pairs of a rule list and a query; `CONFORMANCE_DNS_PAIRS` overrides it.
const PAIRS: usize = 1000;

/// Queries for each rule list.
const EACH: usize = 80;

/// Queries on the way at a time.
const AT_ONCE: usize = 8;

/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(2);

const TAGS: [&str; 4] = ["s0", "s1", "s2", "s3"];

/// All of them begin with a label by which our servers say who they are.
const NAMES: [&str; 10] = [
    "who.a.test",
    "who.A.Test",
    "who.b.test",
    "who.c.b.test",
    "who.q.example",
    "who.www.q.example",
    "who.12a.test",
    "who.xn--fsq.test",
    "who.example",
    "nx.test",
];

const TYPES: [&str; 5] = ["A", "AAAA", "TXT", "HTTPS", "MX"];

/// A small generator with a known sequence.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn some<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        (0..1 + self.below(3)).map(|_| self.pick(from)).collect()
    }

    fn matcher(&mut self, into: &mut Map<String, Value>, shared: bool) {
        let (key, value) = match self.below(if shared { 6 } else { 11 }) {
            0 => ("domain", json!(self.some(&["who.a.test", "WHO.B.TEST", "who.example"]))),
            1 => (
                "domain_suffix",
                json!(self.some(&["test", ".test", "b.test", ".b.test", "example", "q.example"])),
            ),
            2 => ("domain_keyword", json!(self.some(&["b", "q.", "xn--", "zz"]))),
            3 => (
                "domain_regex",
                json!(self.some(&[r"^who\.\d+a", r"test$", r"^[^.]+\.[^.]+$", "(?i)A\\.TEST"])),
            ),
            4 => ("source_ip_cidr", json!(self.some(&["127.0.0.0/8", "10.0.0.0/8"]))),
            5 => ("network", json!(self.pick(&["tcp", "udp"]))),
            6 | 7 => ("query_type", json!(self.some(&TYPES))),
            8 => ("inbound", json!(self.some(&["in0", "in1", "none"]))),
            9 => ("ip_version", json!(self.pick(&[4, 6]))),
            _ => ("rule_set", json!(self.some(&["set0", "set1"]))),
        };
        into.insert(key.to_owned(), value);
    }

    fn condition(&mut self, depth: usize) -> Map<String, Value> {
        let mut rule = Map::new();
        if depth < 2 && self.below(6) == 0 {
            let rules: Vec<Value> =
                (0..1 + self.below(3)).map(|_| self.condition(depth + 1).into()).collect();
            rule.insert("type".into(), json!("logical"));
            rule.insert("mode".into(), json!(self.pick(&["and", "or"])));
            rule.insert("rules".into(), rules.into());
        } else {
            for _ in 0..1 + self.below(3) {
                self.matcher(&mut rule, false);
            }
        }
        if self.below(7) == 0 {
            rule.insert("invert".into(), json!(true));
        }
        rule
    }

    fn rule(&mut self) -> Value {
        let mut rule = self.condition(0);
        let action = match self.below(14) {
            0 => json!({ "action": "reject", "no_drop": true }),
            1 => json!({ "action": "predefined", "rcode": "NXDOMAIN" }),
            2 => json!({ "action": "predefined", "answer": "*. 60 IN A 192.0.2.200" }),
            3 => json!({ "action": "route-options", "rewrite_ttl": 10 * (1 + self.below(9)) }),
            4 => {
                json!({ "server": self.pick(&TAGS), "strategy": self.pick(&["ipv4_only", "ipv6_only"]) })
            }
            5 => json!({ "server": self.pick(&TAGS), "rewrite_ttl": 10 * self.below(9) }),
            6 if !rule.contains_key("rules") => {
                // The answer is looked at: those of our servers differ in their last byte.
                let (key, value) = match self.below(3) {
                    0 => ("ip_is_private", json!(true)),
                    _ => (
                        "ip_cidr",
                        json!(self.some(&["192.0.2.0/25", "192.0.2.64/27", "10.0.0.0/8"])),
                    ),
                };
                rule.insert(key.to_owned(), value);
                json!({ "server": self.pick(&TAGS) })
            }
            _ => json!({ "server": self.pick(&TAGS) }),
        };
        rule.extend(action.as_object().cloned().unwrap_or_default());
        rule.into()
    }

    fn rules(&mut self) -> (Vec<Value>, Vec<Value>) {
        let sets = (0..2)
            .map(|n| {
                let mut rule = Map::new();
                for _ in 0..1 + self.below(2) {
                    self.matcher(&mut rule, true);
                }
                json!({ "tag": format!("set{n}"), "type": "inline", "rules": [rule] })
            })
            .collect();
        let count = self.pick(&[2, 5, 10, 40]);
        ((0..count).map(|_| self.rule()).collect(), sets)
    }

    fn query(&mut self) -> (usize, String) {
        let tcp = if self.below(4) == 0 { " tcp" } else { "" };
        (self.below(2), format!("{} {}{tcp}", self.pick(&NAMES), self.pick(&TYPES)))
    }
}

#[tokio::test]
async fn rules_choose_as_in_the_reference() -> Result<()> {
    let number = |key| std::env::var(key).ok().and_then(|text: String| text.parse::<u64>().ok());
    let pairs = number("CONFORMANCE_DNS_PAIRS").map_or(PAIRS, |n| n as usize);
    let seed = number("CONFORMANCE_SEED").unwrap_or(1);
    let mut origins = Vec::new();
    for tag in TAGS {
        origins.push(Origin::start(tag).await?);
    }
    let servers: Vec<u16> = origins.iter().map(Origin::port).collect();
    let subject = Subject::under_test();
    let (mut judged, mut wrong) = (0, Vec::new());
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    for round in 0..pairs.div_ceil(EACH) as u64 {
        let mut dice = Dice::new(seed + round);
        let (rules, sets) = dice.rules();
        let forgotten = forgets_options(&rules);
        let (theirs, ours) = tokio::try_join!(
            Side::start(&Subject::Reference, &servers, &rules, &sets),
            Side::start(&subject, &servers, &rules, &sets),
        )?;
        let sides = Arc::new((theirs, ours));
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let queries: Vec<_> = (0..EACH / AT_ONCE).map(|_| dice.query()).collect();
            let sides = sides.clone();
            workers.spawn(async move {
                let mut told = Vec::new();
                for (inbound, text) in queries {
                    let ask = Ask::parse(&text)?;
                    let (mut theirs, ours) = tokio::try_join!(
                        ask.at(sides.0.inbounds[inbound], WAIT),
                        ask.at(sides.1.inbounds[inbound], WAIT),
                    )?;
                    // No rule drops: the reference has lost an answer, which it does now and then.
                    if matches!(theirs.as_str(), "no answer" | "closed") {
                        theirs = ask.at(sides.0.inbounds[inbound], WAIT).await?;
                    }
                    told.push((format!("in{inbound} {text}"), theirs, ours));
                }
                anyhow::Ok(told)
            });
        }
        for told in workers.join_all().await {
            for (query, theirs, ours) in told? {
                judged += 1;
                let kind = theirs.split(['?', '@']).next().unwrap_or_default().trim().to_owned();
                *answers.entry(kind).or_default() += 1;
                let alike = match forgotten {
                    true => timeless(&theirs) == timeless(&ours),
                    false => flagless(&theirs) == flagless(&ours),
                };
                if !alike {
                    wrong.push(format!(
                        "seed {}: {query}\n  reference {theirs}\n  subject   {ours}\n  rules {}",
                        seed + round,
                        json!({ "rules": rules, "rule_set": sets })
                    ));
                }
            }
        }
        ensure!(wrong.len() < 5, "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    }
    ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(answers.len() > 2, "too few kinds of answers: {answers:?}");
    loud::line(&format!("{judged} answers by random DNS rules agree (seed {seed}): {answers:?}"));
    Ok(())
}

/// What a rule refuses has no flags in the reference: a listed deviation of the suite `dns`.
fn flagless(answer: &str) -> String {
    answer.replace("Refused rd ra", "Refused")
}

/// Whether the reference may forget what `route-options` said of the TTL: it does where a later rule does not accept the
/// answer and the next rule is tried (`actors/resolver/README.md`).
fn forgets_options(rules: &[Value]) -> bool {
    let option = |rule: &Value| rule["action"] == "route-options";
    let limit = |rule: &Value| rule.get("ip_cidr").is_some() || rule.get("ip_is_private").is_some();
    let first = rules.iter().position(option).unwrap_or(rules.len());
    rules.iter().skip(first).any(limit)
}

/// An answer without flags and TTLs: `= name TTL type data`, `@ name TTL type data`.
fn timeless(answer: &str) -> String {
    let answer = flagless(answer);
    let mut words: Vec<&str> = answer.split(' ').collect();
    let records: Vec<usize> =
        (0..words.len()).filter(|at| matches!(words[*at], "=" | "@")).collect();
    for at in records {
        if let Some(ttl) = words.get_mut(at + 2) {
            *ttl = "TTL";
        }
    }
    words.join(" ")
}

struct Side {
    _running: Running,
    inbounds: [SocketAddr; 2],
}

impl Side {
    async fn start(
        subject: &Subject,
        servers: &[u16],
        rules: &[Value],
        sets: &[Value],
    ) -> Result<Self> {
        let ports: [u16; 2] = ports::many();
        // Each server is asked once before it counts: the reference loses queries while it opens a socket.
        let warm = TAGS.iter().map(|tag| json!({ "domain": format!("{tag}.warm"), "server": tag }));
        let rules: Vec<Value> = warm.chain(rules.iter().cloned()).collect();
        let servers: Vec<Value> = TAGS
            .iter()
            .zip(servers)
            .map(|(tag, port)| {
                json!({ "type": "udp", "tag": tag, "server": "127.0.0.1", "server_port": port })
            })
            .collect();
        let inbound = |n: usize| {
            json!({ "type": "direct", "tag": format!("in{n}"), "listen": "127.0.0.1",
                    "listen_port": ports[n] })
        };
        let mut config = json!({
            "log": { "level": "error" },
            "dns": { "servers": servers, "rules": rules, "final": "s3", "disable_cache": true },
            "inbounds": [inbound(0), inbound(1)],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": {
                "rules": [{ "inbound": ["in0", "in1"], "action": "hijack-dns" }],
                "rule_set": sets, "default_domain_resolver": "s0",
            },
        });
        if !subject.is_reference() {
            // What the reference does by mistake, done on purpose.
            config["crosspoint"] =
                json!({ "compat": ["rule-set-flag-leak", "headless-query-type"] });
        }
        let running = subject.start(&config).await.with_context(|| config.to_string())?;
        let inbounds = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        for tag in TAGS {
            Ask::parse(&format!("{tag}.warm A"))?.at(inbounds[0], WAIT).await?;
        }
        Ok(Self { _running: running, inbounds })
    }
}
