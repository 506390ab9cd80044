//! What a decision costs, and what sets take in memory. `cargo test -p crosspoint-rules --release -- --ignored --nocapture cost`

use std::{hint::black_box, net::Ipv4Addr, time::Instant};

use super::*;
use crate::{
    Index, format,
    item::{CidrSet, DomainSet},
};

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

fn word(numbers: &mut Numbers) -> String {
    const PARTS: [&str; 24] = [
        "ab", "al", "an", "ar", "be", "ca", "co", "de", "di", "en", "fi", "ga", "in", "la", "ma",
        "net", "on", "or", "pro", "re", "shop", "st", "ti", "web",
    ];
    let mut word = String::new();
    for _ in 0..2 + numbers.next(4) {
        word.push_str(PARTS[numbers.next(PARTS.len())]);
    }
    word
}

fn name(numbers: &mut Numbers) -> String {
    const ENDS: [&str; 12] =
        ["com", "com", "com", "net", "org", "de", "co.uk", "cn", "com.cn", "io", "ru", "info"];
    let mut name = word(numbers);
    if numbers.next(2) == 0 {
        name.push_str(&numbers.next(100).to_string());
    }
    if numbers.next(3) == 0 {
        name = format!("{}.{name}", word(numbers));
    }
    format!("{name}.{}", ENDS[numbers.next(ENDS.len())])
}

fn names(seed: u64, count: usize) -> Vec<String> {
    let mut numbers = Numbers(seed);
    (0..count).map(|_| name(&mut numbers)).collect()
}

fn prefixes(count: usize) -> Vec<String> {
    let mut numbers = Numbers(3);
    let prefix = |_| {
        let ip = Ipv4Addr::from(numbers.next(1 << 32) as u32);
        format!("{ip}/{}", 16 + numbers.next(13))
    };
    (0..count).map(prefix).collect()
}

/// The best of several runs: what else the machine does is not of interest.
fn time<T>(what: &str, mut run: impl FnMut(usize) -> T) {
    const ROUNDS: usize = 20_000;
    let best = (0..25)
        .map(|batch| {
            let started = Instant::now();
            for round in batch * ROUNDS..(batch + 1) * ROUNDS {
                black_box(run(round));
            }
            started.elapsed()
        })
        .min();
    println!("{what}: {:.0} ns", best.unwrap_or_default().as_nanos() as f64 / ROUNDS as f64);
}

fn once<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let made = run();
    println!("{what}: {:.2} ms", started.elapsed().as_secs_f64() * 1000.0);
    made
}

#[test]
#[ignore = "measures"]
fn cost() {
    let all = names(1, 100_000);
    let (domains, suffixes) = all.split_at(50_000);
    let prefixes = prefixes(20_000);
    let set = once("names into a set", || DomainSet::new(domains, suffixes).unwrap());
    let cidrs = once("prefixes into a set", || CidrSet::new(&prefixes).unwrap());
    println!(
        "{} bytes of names become {}",
        all.iter().map(String::len).sum::<usize>(),
        set.bytes()
    );
    println!("{} prefixes take {}", prefixes.len(), cidrs.bytes());
    println!("together {:.2} MB", (set.bytes() + cidrs.bytes()) as f64 / 1e6);

    let others = names(7, 50_000);
    let below: Vec<String> = all.iter().map(|name| format!("www.{name}")).collect();
    time("a name that is in it", |n| set.contains(&all[n * 37 % all.len()]));
    time("a name below one", |n| set.contains(&below[n * 37 % below.len()]));
    time("a name that is not in it", |n| set.contains(&others[n * 37 % others.len()]));
    let mut numbers = Numbers(9);
    let ips: Vec<_> =
        (0..10_000).map(|_| Ipv4Addr::from(numbers.next(1 << 32) as u32).into()).collect();
    time("an address", |n| cidrs.contains(ips[n % ips.len()]));

    let file = RuleSetFile {
        version: 3,
        rules: PlainRuleSet {
            rules: vec![HeadlessRule::Default(Box::new(
                crosspoint_schema::options::HeadlessMatchers {
                    domain: domains.to_vec().into(),
                    domain_suffix: suffixes.to_vec().into(),
                    ip_cidr: prefixes.clone().into(),
                    ..Default::default()
                },
            ))],
        },
    };
    let bytes = format::srs::write(&file.clone().into()).unwrap();
    let read = once("a .srs file is read", || format::srs::read(&bytes).unwrap());
    let compiled = once("and compiled", || Compiled::new(read, Compat::default()).unwrap());
    let slot = RuleSetSlot::new("s");
    slot.store(Arc::new(compiled));
    let sets = RuleSets::new([slot], Compat::default());
    let rule = rule(&decode(r#"{"rule_set": "s"}"#), &sets);
    let sessions: Vec<_> =
        others[..1000].iter().map(|name| session(&format!("tcp {name}:443"))).collect();
    time("a decision that looks through the set", |n| {
        rule.matches(&facts(&sessions[n % sessions.len()]))
    });
    let rules: Vec<Rule> = once("5000 rules are compiled", || {
        (0..5000)
            .map(|n| {
                let options = format!(r#"{{"domain_suffix": ["d{n}.example", "e{n}.example"]}}"#);
                super::rule(&decode(&options), &sets)
            })
            .collect()
    });
    let index = once("and filed", || Index::new(rules.iter()));
    time("a decision among 5000 rules", |n| {
        let facts = facts(&sessions[n % sessions.len()]);
        index.candidates(0, &facts).find(|at| rules[*at].matches(&facts))
    });
}

/// A query of which the last of 5,000 rules may or may not say something, with the index and without.
#[test]
#[ignore = "measures"]
fn cost_of_queries() {
    let matchers: Vec<DnsMatcher> = once("5000 DNS rules are compiled", || {
        (0..5000)
            .map(|n| {
                let options = match n % 5 {
                    0 => format!(r#"{{"domain": "d{n}.example", "ip_cidr": "10.0.0.0/8", "server": "s"}}"#),
                    1 => format!(
                        r#"{{"type": "logical", "mode": "and", "server": "s",
                            "rules": [{{"domain_suffix": "d{n}.example"}}, {{"query_type": "A"}}]}}"#
                    ),
                    _ => format!(r#"{{"domain_suffix": ["d{n}.example", "e{n}.example"], "server": "s"}}"#),
                };
                super::dns_rule(&options, &RuleSets::default())
            })
            .collect()
    });
    let index = once("and filed", || Index::queries(matchers.iter()));
    let hit = |n: usize| format!("www.d{}.example", n % 5000);
    let queries: Vec<String> = (0..1000).map(|n| hit(n * 37)).chain(names(7, 1000)).collect();
    time("a query among 5000 rules", |n| {
        let facts = Facts::query(None, &queries[n % queries.len()], 1);
        index.candidates(0, &facts).find(|at| matchers[*at].matches(&facts))
    });
    let started = Instant::now();
    for query in &queries {
        let facts = Facts::query(None, query, 1);
        black_box(matchers.iter().position(|matcher| matcher.matches(&facts)));
    }
    let each = started.elapsed().as_nanos() as f64 / queries.len() as f64;
    println!("the same, rule by rule: {each:.0} ns");
}
