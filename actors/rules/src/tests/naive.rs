//! Rules as the documentation of the reference and its behaviour have them, written down without a thought to speed:
//! what the engine is compared with.

use std::net::IpAddr;

use crosspoint_schema::options::{
    DnsRule, DnsRuleMatchers, HeadlessMatchers, HeadlessRule, Rule as RuleOptions, RuleMatchers,
};

use super::*;

/// Everything that a random rule can look at.
#[derive(Default)]
pub(super) struct World<'a> {
    pub(super) name: Option<String>,
    pub(super) ip: Option<IpAddr>,
    pub(super) answer: Vec<IpAddr>,
    pub(super) port: u16,
    pub(super) source: Option<(IpAddr, u16)>,
    pub(super) network: &'a str,
    pub(super) query_type: u16,
    pub(super) inbound: &'a str,
    /// For whose server a name is looked up.
    pub(super) outbound: &'a str,
    /// Rule-sets by tag.
    pub(super) sets: &'a [(String, Vec<HeadlessRule>)],
    pub(super) compat: Compat,
    /// Prefixes of the destination are put off.
    pub(super) before_answer: bool,
}

/// The four groups and what else rules of a set share with the rule that refers to it.
#[derive(Clone, Copy, Default)]
pub(super) struct Flags {
    groups: [bool; 4],
    compared: bool,
    match_source: bool,
    accept_empty: bool,
}

const SOURCE: usize = 0;
const SOURCE_PORT: usize = 1;
const DESTINATION: usize = 2;
const PORT: usize = 3;

/// The members that the three kinds of rules have in common, as far as the tests use them.
#[derive(Default)]
struct Common<'a> {
    network: &'a [String],
    inbound: &'a [String],
    outbound: &'a [String],
    domain: &'a [String],
    suffix: &'a [String],
    keyword: &'a [String],
    source_cidr: &'a [String],
    cidr: &'a [String],
    private: bool,
    source_port: &'a [u16],
    port: &'a [u16],
    query_type: Option<Vec<u16>>,
    sets: &'a [String],
    match_source: bool,
    accept_empty: bool,
    invert: bool,
}

macro_rules! common {
    ($m:expr) => {
        Common {
            network: &$m.network,
            domain: &$m.domain,
            suffix: &$m.domain_suffix,
            keyword: &$m.domain_keyword,
            source_cidr: &$m.source_ip_cidr,
            cidr: &$m.ip_cidr,
            source_port: &$m.source_port,
            port: &$m.port,
            invert: $m.invert,
            ..Common::default()
        }
    };
}

fn of_route(m: &RuleMatchers) -> Common<'_> {
    Common {
        private: m.ip_is_private,
        inbound: &m.inbound,
        sets: &m.rule_set,
        match_source: m.rule_set_ip_cidr_match_source,
        ..common!(m)
    }
}

fn of_dns(m: &DnsRuleMatchers) -> Common<'_> {
    Common {
        private: m.ip_is_private,
        inbound: &m.inbound,
        outbound: &m.outbound,
        sets: &m.rule_set,
        match_source: m.rule_set_ip_cidr_match_source,
        accept_empty: m.rule_set_ip_cidr_accept_empty,
        query_type: types(&m.query_type),
        ..common!(m)
    }
}

fn of_set(m: &HeadlessMatchers, compat: Compat) -> Common<'_> {
    Common { query_type: types(&m.query_type).filter(|_| !compat.no_query_type), ..common!(m) }
}

fn types(list: &[crosspoint_schema::options::QueryType]) -> Option<Vec<u16>> {
    (!list.is_empty()).then(|| list.iter().map(|kind| kind.0).collect())
}

fn covers(prefix: &str, ip: IpAddr) -> bool {
    let net: ipnet::IpNet = prefix.parse().unwrap();
    net.contains(&ip)
}

impl World<'_> {
    /// One group of items: nothing to compare, found before, or found now.
    fn group(&self, flags: &mut Flags, group: usize, used: bool, found: impl Fn() -> bool) {
        if used && !flags.groups[group] {
            flags.compared = true;
            flags.groups[group] = found();
        }
    }

    fn named(&self, c: &Common<'_>) -> bool {
        let Some(name) = &self.name else { return false };
        c.domain.contains(name)
            || c.suffix.iter().any(|s| {
                if s.starts_with('.') {
                    name.ends_with(s.as_str())
                } else {
                    name == s || name.ends_with(&format!(".{s}"))
                }
            })
            || c.keyword.iter().any(|k| name.contains(k.as_str()))
    }

    fn addressed(&self, c: &Common<'_>, flags: Flags) -> bool {
        let known: Vec<IpAddr> = self.ip.map_or_else(|| self.answer.clone(), |ip| vec![ip]);
        let private = c.private && known.iter().any(|ip| crate::item::is_private(*ip));
        let by_prefix = |ip: IpAddr| c.cidr.iter().any(|prefix| covers(prefix, ip));
        let in_prefix = if c.cidr.is_empty() {
            false
        } else if flags.match_source {
            self.source.is_some_and(|(ip, _)| by_prefix(ip))
        } else if known.is_empty() {
            flags.accept_empty
        } else {
            known.into_iter().any(by_prefix)
        };
        private || in_prefix
    }

    fn default(&self, c: &Common<'_>, flags: &mut Flags) -> bool {
        let named = !c.domain.is_empty() || !c.suffix.is_empty() || !c.keyword.is_empty();
        let addressed = (!c.cidr.is_empty() || c.private) && !self.before_answer;
        let plain = !c.network.is_empty()
            || c.query_type.is_some()
            || !c.inbound.is_empty()
            || !c.outbound.is_empty();
        let groups = [
            (SOURCE, !c.source_cidr.is_empty()),
            (SOURCE_PORT, !c.source_port.is_empty()),
            (DESTINATION, named || addressed),
            (PORT, !c.port.is_empty()),
        ];
        let anything = named || plain || !c.cidr.is_empty() || c.private || !c.sets.is_empty();
        if !anything && groups.iter().all(|(_, used)| !used) {
            return true;
        }
        self.group(flags, SOURCE, !c.source_cidr.is_empty(), || {
            self.source.is_some_and(|(ip, _)| c.source_cidr.iter().any(|p| covers(p, ip)))
        });
        self.group(flags, SOURCE_PORT, !c.source_port.is_empty(), || {
            c.source_port.contains(&self.source.map_or(0, |(_, port)| port))
        });
        self.group(flags, DESTINATION, named, || self.named(c));
        let now = *flags;
        self.group(flags, DESTINATION, addressed, || self.addressed(c, now));
        self.group(flags, PORT, !c.port.is_empty(), || c.port.contains(&self.port));
        flags.compared |= plain;
        let any_outbound = !self.outbound.is_empty() && c.outbound.iter().any(|tag| tag == "any");
        let plain = (c.network.is_empty() || c.network.iter().any(|n| n == self.network))
            && (c.inbound.is_empty() || c.inbound.iter().any(|tag| tag == self.inbound))
            && (c.outbound.is_empty()
                || any_outbound
                || c.outbound.iter().any(|tag| tag == self.outbound))
            && c.query_type
                .as_ref()
                .is_none_or(|types| self.query_type != 0 && types.contains(&self.query_type));
        if !plain || !(c.sets.is_empty() || self.in_sets(c, flags)) {
            return c.invert;
        }
        if groups.iter().any(|(group, used)| *used && !flags.groups[*group]) {
            return c.invert;
        }
        !flags.compared || !c.invert
    }

    fn in_sets(&self, c: &Common<'_>, flags: &mut Flags) -> bool {
        flags.match_source = c.match_source;
        flags.accept_empty = c.accept_empty;
        let find = |tag: &String| self.sets.iter().find(|(known, _)| known == tag);
        for rule in c.sets.iter().filter_map(find).flat_map(|(_, rules)| rules) {
            let mut own = *flags;
            let matched = self.headless(rule, &mut own);
            if matched || self.compat.flag_leak {
                *flags = own;
            }
            if matched {
                return true;
            }
        }
        false
    }

    fn logical<T>(
        &self,
        mode: &str,
        rules: &[T],
        invert: bool,
        flags: &mut Flags,
        each: impl Fn(&T, &mut Flags) -> bool,
    ) -> bool {
        let stop = mode == "or";
        for rule in rules {
            *flags = Flags::default();
            if each(rule, flags) == stop {
                return stop != invert;
            }
        }
        stop == invert
    }

    fn headless(&self, rule: &HeadlessRule, flags: &mut Flags) -> bool {
        match rule {
            HeadlessRule::Default(m) => self.default(&of_set(m, self.compat), flags),
            HeadlessRule::Logical(l) => {
                self.logical(&l.mode, &l.rules, l.invert, flags, |r, f| self.headless(r, f))
            }
        }
    }

    pub(super) fn route(&self, rule: &RuleOptions, flags: &mut Flags) -> bool {
        match rule {
            RuleOptions::Default(rule) => self.default(&of_route(&rule.matchers), flags),
            RuleOptions::Logical(l) => {
                self.logical(&l.mode, &l.rules, l.invert, flags, |r, f| self.route(r, f))
            }
        }
    }

    pub(super) fn dns(&self, rule: &DnsRule, flags: &mut Flags) -> bool {
        match rule {
            DnsRule::Default(rule) => self.default(&of_dns(&rule.matchers), flags),
            DnsRule::Logical(l) => {
                self.logical(&l.mode, &l.rules, l.invert, flags, |r, f| self.dns(r, f))
            }
        }
    }
}
