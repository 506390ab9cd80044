//! Which rules can match at all: thousands of plain rules cost as much as the few that fit.
//!
//! A rule of which one group consists of names, addresses, ports or tags only is filed under them; it is looked
//! at when the connection or the query has one of them. So is a logical rule: under what all of its branches are
//! filed under if one of them must match, under what one of them is if all must. Every other rule is looked at always.
//! Rules keep their order.

mod tables;

use std::{borrow::Cow, collections::HashMap};

use self::tables::{Domains, Prefixes, Texts};
use crate::{
    dns::DnsMatcher,
    facts::Facts,
    item::{CidrSet, TextSet},
    rule::{DefaultRule, Item, Kind, Rule},
};

/// With fewer rules than this, looking at each is cheaper than looking up.
const WORTHWHILE: usize = 24;

/// A rule for more ports than this is not filed by port.
const FEW_PORTS: usize = 64;

/// A rule with more names or prefixes than this has a set that answers as fast as the index, and more compactly.
const MANY: usize = 1024;

/// The index of a rule list.
#[derive(Debug, Default)]
pub struct Index {
    /// Rules that are looked at always, ascending.
    always: Vec<u32>,
    domains: Domains,
    destinations: Prefixes,
    sources: Prefixes,
    ports: HashMap<u16, Vec<u32>>,
    inbounds: Texts,
    users: Texts,
    protocols: Texts,
    outbounds: Texts,
}

/// One thing that a rule is filed under.
enum Key<'a> {
    Name(Cow<'a, str>, u8),
    Destination(&'a CidrSet),
    Source(&'a CidrSet),
    Ports(Vec<u16>),
    Inbound(&'a TextSet),
    User(&'a TextSet),
    Protocol(&'a TextSet),
    Outbound(&'a TextSet),
}

/// What is known of the destination's addresses when rules are looked at.
#[derive(Clone, Copy, PartialEq)]
enum Addresses {
    Known,
    /// Comparisons with them are put off until a query is answered.
    PutOff,
}

impl Index {
    /// Files rules for connections under their numbers.
    pub fn new<'a>(rules: impl ExactSizeIterator<Item = &'a Rule>) -> Self {
        Self::of(rules, Addresses::Known)
    }

    /// Files rules for queries under their numbers: for [`DnsMatcher::matches`], before the answer is known.
    pub fn queries<'a>(rules: impl ExactSizeIterator<Item = &'a DnsMatcher>) -> Self {
        Self::of(rules.map(DnsMatcher::rule), Addresses::PutOff)
    }

    fn of<'a>(rules: impl ExactSizeIterator<Item = &'a Rule>, addresses: Addresses) -> Self {
        let mut index = Self::default();
        let worthwhile = rules.len() >= WORTHWHILE;
        for (at, rule) in rules.enumerate() {
            let at = at as u32;
            match worthwhile.then(|| keys(rule, addresses)).flatten() {
                Some(keys) => keys.into_iter().for_each(|key| index.file(at, key)),
                None => index.always.push(at),
            }
        }
        index
    }

    fn file(&mut self, at: u32, key: Key<'_>) {
        match key {
            Key::Name(name, how) => self.domains.file(at, &name, how),
            Key::Destination(set) => self.destinations.file(at, set),
            Key::Source(set) => self.sources.file(at, set),
            Key::Ports(ports) => {
                for port in ports {
                    self.ports.entry(port).or_default().push(at);
                }
            }
            Key::Inbound(set) => self.inbounds.file(at, set),
            Key::User(set) => self.users.file(at, set),
            Key::Protocol(set) => self.protocols.file(at, set),
            Key::Outbound(set) => self.outbounds.file(at, set),
        }
    }

    /// The rules from `next` on that may match, in order.
    pub fn candidates(&self, next: usize, facts: &Facts<'_>) -> impl Iterator<Item = usize> {
        let next = next as u32;
        let mut filed = self.filed(next, facts).into_iter().peekable();
        let mut always =
            self.always[self.always.partition_point(|at| *at < next)..].iter().copied().peekable();
        std::iter::from_fn(move || {
            let at = match (filed.peek(), always.peek()) {
                (Some(a), Some(b)) if a < b => filed.next(),
                (Some(_), None) => filed.next(),
                _ => always.next(),
            };
            at.map(|at| at as usize)
        })
    }

    fn filed(&self, next: u32, facts: &Facts<'_>) -> Vec<u32> {
        let mut hits: Vec<u32> = Vec::new();
        if let Some(domain) = facts.domain() {
            self.domains.collect(domain, &mut hits);
        }
        for ip in facts.destinations() {
            self.destinations.collect(*ip, &mut hits);
        }
        if let Some(ip) = facts.source() {
            self.sources.collect(ip, &mut hits);
        }
        self.users.collect(facts.user(), &mut hits);
        self.inbounds.collect(facts.inbound(), &mut hits);
        self.protocols.collect(facts.protocol(), &mut hits);
        self.outbounds.collect(facts.outbound(), &mut hits);
        if !self.ports.is_empty() {
            hits.extend(self.ports.get(&facts.port()).into_iter().flatten());
        }
        hits.retain(|at| *at >= next);
        hits.sort_unstable();
        hits.dedup();
        hits
    }
}

/// What a rule is filed under: without one of these it cannot match. `None` if nothing can be said.
fn keys(rule: &Rule, addresses: Addresses) -> Option<Vec<Key<'_>>> {
    match &rule.0 {
        Kind::Default(rule) if !rule.invert => of_groups(rule, addresses),
        // Branches share nothing that they find, so that each is a rule by itself.
        Kind::Logical { or: true, rules, invert: false } => {
            let branches = rules.iter().map(|rule| keys(rule, addresses));
            Some(branches.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
        Kind::Logical { or: false, rules, invert: false } => {
            rules.iter().find_map(|rule| keys(rule, addresses))
        }
        _ => None,
    }
}

/// The most telling group of a rule.
///
/// What a group of the rule needs may also be found by one of its rule-sets: only a rule without sets can be filed
/// under a group.
fn of_groups(rule: &DefaultRule, addresses: Addresses) -> Option<Vec<Key<'_>>> {
    let groups = rule.sets.is_none();
    if groups && let Some(keys) = of_address(rule, addresses) {
        return Some(keys);
    }
    if groups && let [Item::SourceCidr(set)] = &*rule.source_address {
        return Some(vec![Key::Source(set)]);
    }
    let text = rule.items.iter().find_map(|item| match item {
        Item::AuthUser(set) => Some(Key::User(set)),
        Item::Inbound(set) => Some(Key::Inbound(set)),
        Item::Protocol(set) => Some(Key::Protocol(set)),
        Item::Outbound(Some(set)) => Some(Key::Outbound(set)),
        _ => None,
    });
    if let Some(text) = text {
        return Some(vec![text]);
    }
    match &*rule.port {
        [Item::Port(set)] if groups => set.few(FEW_PORTS).map(|ports| vec![Key::Ports(ports)]),
        _ => None,
    }
}

/// Names and addresses of the destination are one group. Where addresses are put off, the names decide alone.
fn of_address(rule: &DefaultRule, addresses: Addresses) -> Option<Vec<Key<'_>>> {
    let ip: &[Item] = if addresses == Addresses::PutOff { &[] } else { &rule.ip };
    let mut keys = Vec::new();
    for item in rule.name.iter().chain(ip) {
        match item {
            Item::Domain(set) => {
                keys.extend(set.names(MANY)?.into_iter().map(|(name, how)| Key::Name(name, how)));
            }
            Item::Cidr(set) if set.ranges() <= MANY => keys.push(Key::Destination(set)),
            _ => return None,
        }
    }
    (!keys.is_empty()).then_some(keys)
}
