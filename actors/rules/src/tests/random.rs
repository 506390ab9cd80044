//! Random rules with random sets: the engine says what the naive evaluator says.

use std::net::IpAddr;

use crosspoint_schema::options::{
    DefaultDnsRule, DefaultRule, DnsRuleMatchers, HeadlessMatchers, LogicalDnsRule,
    LogicalHeadlessRule, LogicalRule, QueryType, RuleMatchers,
};
use proptest::prelude::*;

use super::{
    naive::{Flags, World},
    *,
};
use crate::Index;

fn pick(list: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(list).prop_map(str::to_owned), 1..3)
}

/// Members from few values, each there or not, so that rules of all shapes come up and often match.
#[derive(Clone, Debug)]
struct Random {
    domain: Vec<String>,
    suffix: Vec<String>,
    keyword: Vec<String>,
    cidr: Vec<String>,
    source_cidr: Vec<String>,
    private: bool,
    port: Vec<u16>,
    source_port: Vec<u16>,
    network: Vec<String>,
    query_type: Vec<QueryType>,
    inbound: Vec<String>,
    outbound: Vec<String>,
    sets: Vec<String>,
    match_source: bool,
    accept_empty: bool,
    invert: bool,
}

fn random() -> impl Strategy<Value = Random> {
    let names = (pick(&["a.x", "b.x", "x"]), pick(&["x", ".b.x", "a.x"]), pick(&["b", "q"]));
    let addresses = (
        pick(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32"]),
        pick(&["127.0.0.0/8", "10.0.0.9/32"]),
    );
    let ports = prop::collection::vec(79u16..81, 1..2);
    let source_ports = prop::collection::vec(prop::sample::select(&[0u16, 7, 40000][..]), 1..2);
    let tags = (pick(&["in", "elsewhere"]), pick(&["o", "p", "any"]));
    let rest = (
        pick(&["tcp", "udp"]),
        prop::sample::select(&[1u16, 28][..]),
        pick(&["s", "t", "u"]),
        tags,
    );
    let flags = (any::<[bool; 3]>(), prop::bool::weighted(0.25));
    let mask = any::<u16>();
    (names, addresses, ports, source_ports, rest, flags, mask, any::<u16>()).prop_map(
        |(names, addresses, port, source_port, rest, (flags, invert), mask, other)| {
            // Both masks: about a quarter of the members is there.
            let has = |bit: u16| mask & other & (1 << bit) != 0;
            fn keep<T>(yes: bool, list: Vec<T>) -> Vec<T> {
                if yes { list } else { Vec::new() }
            }
            Random {
                domain: keep(has(0), names.0),
                suffix: keep(has(1), names.1),
                keyword: keep(has(2), names.2),
                cidr: keep(has(3), addresses.0),
                source_cidr: keep(has(4), addresses.1),
                private: has(5) && flags[0],
                port: keep(has(6), port),
                source_port: keep(has(7), source_port),
                network: keep(has(8), rest.0),
                query_type: keep(has(9), vec![QueryType(rest.1)]),
                inbound: keep(has(12), rest.3.0),
                outbound: keep(has(13), rest.3.1),
                // Sets are what this is about.
                sets: keep(mask & (1 << 10) != 0, rest.2),
                match_source: has(11),
                accept_empty: flags[2],
                invert,
            }
        },
    )
}

impl Random {
    fn route(self) -> RuleMatchers {
        RuleMatchers {
            domain: self.domain.into(),
            domain_suffix: self.suffix.into(),
            domain_keyword: self.keyword.into(),
            ip_cidr: self.cidr.into(),
            source_ip_cidr: self.source_cidr.into(),
            ip_is_private: self.private,
            port: self.port.into(),
            source_port: self.source_port.into(),
            network: self.network.into(),
            inbound: self.inbound.into(),
            rule_set: self.sets.into(),
            rule_set_ip_cidr_match_source: self.match_source,
            invert: self.invert,
            ..RuleMatchers::default()
        }
    }

    fn dns(self) -> DnsRuleMatchers {
        DnsRuleMatchers {
            domain: self.domain.into(),
            domain_suffix: self.suffix.into(),
            domain_keyword: self.keyword.into(),
            ip_cidr: self.cidr.into(),
            source_ip_cidr: self.source_cidr.into(),
            ip_is_private: self.private,
            port: self.port.into(),
            source_port: self.source_port.into(),
            network: self.network.into(),
            inbound: self.inbound.into(),
            outbound: self.outbound.into(),
            query_type: self.query_type.into(),
            rule_set: self.sets.into(),
            rule_set_ip_cidr_match_source: self.match_source,
            rule_set_ip_cidr_accept_empty: self.accept_empty,
            invert: self.invert,
            ..DnsRuleMatchers::default()
        }
    }

    /// A rule of a set, which may not be without conditions.
    fn headless(mut self) -> HeadlessMatchers {
        if self.port.is_empty()
            && self.network.is_empty()
            && self.domain.is_empty()
            && self.cidr.is_empty()
        {
            self.query_type = vec![QueryType(1)];
        }
        HeadlessMatchers {
            domain: self.domain.into(),
            domain_suffix: self.suffix.into(),
            domain_keyword: self.keyword.into(),
            ip_cidr: self.cidr.into(),
            source_ip_cidr: self.source_cidr.into(),
            port: self.port.into(),
            source_port: self.source_port.into(),
            network: self.network.into(),
            query_type: self.query_type.into(),
            invert: self.invert,
            ..HeadlessMatchers::default()
        }
    }
}

/// Rules of one kind, some of them logical.
fn nested<T: Clone + std::fmt::Debug + 'static>(
    leaf: impl Strategy<Value = T> + 'static,
    combine: fn(String, Vec<T>, bool) -> T,
) -> impl Strategy<Value = T> {
    leaf.prop_recursive(2, 8, 3, move |inner| {
        let mode = prop::sample::select(&["and", "or"][..]);
        (mode, prop::collection::vec(inner, 1..4), prop::bool::weighted(0.3))
            .prop_map(move |(mode, rules, invert)| combine(mode.to_owned(), rules, invert))
    })
}

fn route_rules() -> impl Strategy<Value = RuleOptions> {
    let leaf = random().prop_map(|random| {
        RuleOptions::Default(Box::new(DefaultRule {
            matchers: random.route(),
            ..Default::default()
        }))
    });
    nested(leaf, |mode, rules, invert| {
        RuleOptions::Logical(Box::new(LogicalRule { mode, rules, invert, ..Default::default() }))
    })
}

fn dns_rules() -> impl Strategy<Value = DnsRule> {
    let leaf = random().prop_map(|random| {
        DnsRule::Default(Box::new(DefaultDnsRule { matchers: random.dns(), ..Default::default() }))
    });
    nested(leaf, |mode, rules, invert| {
        DnsRule::Logical(Box::new(LogicalDnsRule { mode, rules, invert, ..Default::default() }))
    })
}

fn headless_rules() -> impl Strategy<Value = HeadlessRule> {
    let leaf = random().prop_map(|random| HeadlessRule::Default(Box::new(random.headless())));
    nested(leaf, |mode, rules, invert| {
        HeadlessRule::Logical(Box::new(LogicalHeadlessRule { mode, rules, invert }))
    })
}

type Sets = Vec<(String, Vec<HeadlessRule>)>;

/// The sets `s`, `t` and `u`.
fn rule_sets() -> impl Strategy<Value = (Sets, Compat)> {
    let rules = || prop::collection::vec(headless_rules(), 1..4);
    let compat = any::<[bool; 2]>()
        .prop_map(|[flag_leak, no_query_type]| Compat { flag_leak, no_query_type });
    ((rules(), rules(), rules()), compat).prop_map(|((s, t, u), compat)| {
        (vec![("s".to_owned(), s), ("t".to_owned(), t), ("u".to_owned(), u)], compat)
    })
}

fn slots((sets, compat): &(Sets, Compat)) -> RuleSets {
    let slot = |(tag, rules): &(String, Vec<HeadlessRule>)| {
        let file = RuleSetFile { version: 3, rules: PlainRuleSet { rules: rules.clone() } };
        let slot = RuleSetSlot::new(tag);
        slot.store(Arc::new(Compiled::from_file(file, *compat).unwrap()));
        slot
    };
    RuleSets::new(sets.iter().map(slot), *compat)
}

const HOSTS: &[&str] = &["a.x", "x", "d.b.x", "q", "10.1.2.3", "10.2.0.0", "192.0.2.1", "8.8.8.8"];

fn connections() -> impl Strategy<Value = String> {
    let rest = prop::sample::select(
        &["", " ip=10.1.0.1", " from=10.0.0.9:7", " from=8.8.8.8:7 ip=8.8.8.8"][..],
    );
    (prop::sample::select(&["tcp", "udp"][..]), prop::sample::select(HOSTS), 79u16..82, rest)
        .prop_map(|(network, host, port, rest)| format!("{network} {host}:{port}{rest}"))
}

fn world<'a>(session: &Session, (sets, compat): &'a (Sets, Compat)) -> World<'a> {
    World {
        name: session.target.host.name().map(str::to_owned),
        ip: session.target.host.ip(),
        answer: session.resolved.clone(),
        port: session.target.port,
        source: Some((session.source.ip(), session.source.port())),
        network: if session.network == Network::Tcp { "tcp" } else { "udp" },
        inbound: "in",
        sets,
        compat: *compat,
        ..World::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn connections_match_as_in_the_naive_evaluator(options in route_rules(), sets in rule_sets(), all in prop::collection::vec(connections(), 6)) {
        let compiled = rule(&options, &slots(&sets));
        for connection in all {
            let session = session(&connection);
            let expected = world(&session, &sets).route(&options, &mut Flags::default());
            prop_assert_eq!(compiled.matches(&facts(&session)), expected, "{}", connection);
        }
    }

    #[test]
    fn the_index_finds_what_a_scan_finds(options in prop::collection::vec(route_rules(), 24..40), sets in rule_sets(), all in prop::collection::vec(connections(), 6)) {
        let slots = slots(&sets);
        let rules: Vec<Rule> = options.iter().map(|options| rule(options, &slots)).collect();
        let index = Index::new(rules.iter());
        for connection in all {
            let session = session(&connection);
            let facts = facts(&session);
            for next in [0, rules.len() / 2] {
                let scan = (next..rules.len()).filter(|at| rules[*at].matches(&facts));
                let found = index.candidates(next, &facts).filter(|at| rules[*at].matches(&facts));
                prop_assert_eq!(found.collect::<Vec<_>>(), scan.collect::<Vec<_>>(), "{}", connection);
            }
        }
    }

    #[test]
    fn the_index_of_queries_finds_what_a_scan_finds(
        options in prop::collection::vec(dns_rules(), 24..40), sets in rule_sets(),
        all in prop::collection::vec((prop::sample::select(&["a.x", "x", "d.b.x", "q", ""][..]), prop::sample::select(&[0u16, 1, 28, 16][..]),
                                      prop::option::of(connections()), prop::sample::select(&["", "o", "p"][..])), 6),
    ) {
        let slots = slots(&sets);
        let rules: Vec<DnsMatcher> =
            options.iter().map(|options| DnsMatcher::compile(options, &slots).unwrap()).collect();
        let index = Index::queries(rules.iter());
        for (name, kind, client, outbound) in all {
            let session = client.as_deref().map(session);
            let facts = Facts::query(session.as_deref(), name, kind).with_outbound(outbound);
            for next in [0, rules.len() / 2] {
                let scan = (next..rules.len()).filter(|at| rules[*at].matches(&facts));
                let found = index.candidates(next, &facts).filter(|at| rules[*at].matches(&facts));
                prop_assert_eq!(found.collect::<Vec<_>>(), scan.collect::<Vec<_>>(), "{} {:?}", name, client);
            }
        }
    }

    #[test]
    fn queries_match_as_in_the_naive_evaluator(
        options in dns_rules(), sets in rule_sets(), name in prop::sample::select(&["a.x", "x", "d.b.x", "q"][..]),
        kind in prop::sample::select(&[1u16, 28, 16][..]), client in prop::option::of(connections()),
        answer in prop::collection::vec(prop::sample::select(&["10.1.0.1", "8.8.8.8", "192.0.2.1"][..]), 0..3),
        outbound in prop::sample::select(&["", "o", "q"][..]),
    ) {
        let matcher = DnsMatcher::compile(&options, &slots(&sets)).unwrap();
        let session = client.map(|client| session(&client));
        let mut world = match &session {
            Some(session) => world(session, &sets),
            None => World { sets: &sets.0, compat: sets.1, ..World::default() },
        };
        (world.name, world.ip, world.port) = (Some(name.to_owned()), None, 0);
        world.query_type = kind;
        world.before_answer = true;
        world.outbound = outbound;
        let query = Facts::query(session.as_deref(), name, kind).with_outbound(outbound);
        let mut flags = Flags::default();
        prop_assert_eq!(matcher.matches(&query), world.dns(&options, &mut flags));
        let answer: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
        world.before_answer = false;
        world.answer = answer.clone();
        // In the reference the second look begins with what the first has left behind.
        let mut flags = if sets.1.flag_leak { flags } else { Flags::default() };
        prop_assert_eq!(matcher.matches_address_limit(&query.with_answer(&answer)), world.dns(&options, &mut flags));
    }
}
