//! Which rules can match at all: thousands of plain rules cost as much as the few that fit.
//!
//! A rule of which one group consists of names, addresses, ports or tags only is filed under them; it is looked
//! at when the connection has one of them. Every other rule is looked at always. Rules keep their order.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    facts::Facts,
    item::{CidrSet, TextSet, parents, wanted},
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
    inbounds: HashMap<Box<str>, Vec<u32>>,
    users: HashMap<Box<str>, Vec<u32>>,
    protocols: HashMap<Box<str>, Vec<u32>>,
}

impl Index {
    /// Files rules under their numbers.
    pub fn new<'a>(rules: impl ExactSizeIterator<Item = &'a Rule>) -> Self {
        let mut index = Self::default();
        let worthwhile = rules.len() >= WORTHWHILE;
        for (at, rule) in rules.enumerate() {
            let at = at as u32;
            let filed = worthwhile
                && matches!(&rule.0, Kind::Default(rule) if !rule.invert && index.file(at, rule));
            if !filed {
                index.always.push(at);
            }
        }
        index
    }

    /// Files a rule under its most telling group. Whether there is one.
    ///
    /// What a group of the rule needs may also be found by one of its rule-sets: only a rule without sets can be filed
    /// under a group.
    fn file(&mut self, at: u32, rule: &DefaultRule) -> bool {
        let groups = rule.sets.is_none();
        if groups && self.file_address(at, rule) {
            return true;
        }
        if groups && let [Item::SourceCidr(set)] = &*rule.source_address {
            self.sources.file(at, set);
            return true;
        }
        for item in &rule.items {
            let (map, set) = match item {
                Item::AuthUser(set) => (&mut self.users, set),
                Item::Inbound(set) => (&mut self.inbounds, set),
                Item::Protocol(set) => (&mut self.protocols, set),
                _ => continue,
            };
            file_texts(map, at, set);
            return true;
        }
        if groups
            && let [Item::Port(set)] = &*rule.port
            && let Some(ports) = set.few(FEW_PORTS)
        {
            for port in ports {
                self.ports.entry(port).or_default().push(at);
            }
            return true;
        }
        false
    }

    fn file_address(&mut self, at: u32, rule: &DefaultRule) -> bool {
        let (mut names, mut cidrs) = (Vec::new(), Vec::new());
        for item in rule.name.iter().chain(&rule.ip) {
            match item {
                Item::Domain(set) => match set.names(MANY) {
                    Some(some) => names.extend(some),
                    None => return false,
                },
                Item::Cidr(set) if set.ranges() <= MANY => cidrs.push(set),
                _ => return false,
            }
        }
        for (name, how) in &names {
            self.domains.file(at, name, *how);
        }
        for set in &cidrs {
            self.destinations.file(at, set);
        }
        !names.is_empty() || !cidrs.is_empty()
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
        let mut texts = |map: &HashMap<Box<str>, Vec<u32>>, text: &str| {
            if !map.is_empty() {
                hits.extend(map.get(text).into_iter().flatten());
            }
        };
        texts(&self.users, facts.user());
        texts(&self.inbounds, facts.inbound());
        texts(&self.protocols, facts.protocol());
        if !self.ports.is_empty() {
            hits.extend(self.ports.get(&facts.port()).into_iter().flatten());
        }
        hits.retain(|at| *at >= next);
        hits.sort_unstable();
        hits.dedup();
        hits
    }
}

fn file_texts(map: &mut HashMap<Box<str>, Vec<u32>>, at: u32, set: &TextSet) {
    for text in set.iter() {
        match map.get_mut(text) {
            Some(rules) => rules.push(at),
            None => {
                map.insert(text.into(), vec![at]);
            }
        }
    }
}

/// Rules by domain name. The rules of a name are a list within one vector, since most names have one.
#[derive(Debug, Default)]
struct Domains {
    heads: HashMap<Box<str>, u32>,
    filed: Vec<Filed>,
}

#[derive(Debug)]
struct Filed {
    rule: u32,
    how: u8,
    next: u32,
}

/// Ends a list.
const END: u32 = u32::MAX;

impl Domains {
    fn file(&mut self, rule: u32, name: &str, how: u8) {
        let at = self.filed.len() as u32;
        let next = match self.heads.get_mut(name) {
            Some(head) => std::mem::replace(head, at),
            None => {
                self.heads.insert(name.into(), at);
                END
            }
        };
        self.filed.push(Filed { rule, how, next });
    }

    fn collect(&self, domain: &str, hits: &mut Vec<u32>) {
        if self.heads.is_empty() {
            return;
        }
        for (name, whole) in parents(domain) {
            let mut at = self.heads.get(name).copied().unwrap_or(END);
            while let Some(filed) = self.filed.get(at as usize) {
                if filed.how & wanted(whole) != 0 {
                    hits.push(filed.rule);
                }
                at = filed.next;
            }
        }
    }
}

/// Rules by prefix: one lookup for each length that occurs.
#[derive(Debug, Default)]
struct Prefixes {
    rules: HashMap<(u8, u128), Vec<u32>>,
    /// The lengths that occur, those of IPv4 counted from [`V4`].
    lengths: Vec<u8>,
}

/// Keeps IPv4 lengths apart from those of IPv6, which end at 128.
const V4: u8 = 200;

impl Prefixes {
    fn file(&mut self, at: u32, set: &CidrSet) {
        for (ip, bits) in set.prefixes() {
            let (base, number, _) = number(ip);
            let length = base + bits;
            if let Err(place) = self.lengths.binary_search(&length) {
                self.lengths.insert(place, length);
            }
            let rules = self.rules.entry((length, number)).or_default();
            if rules.last() != Some(&at) {
                rules.push(at);
            }
        }
    }

    fn collect(&self, ip: IpAddr, hits: &mut Vec<u32>) {
        let (base, number, width) = number(ip);
        for length in self.lengths.iter().copied().filter(|length| (*length >= V4) == (base == V4))
        {
            let host = width - (length - base);
            let masked = number
                .checked_shr(host.into())
                .and_then(|n| n.checked_shl(host.into()))
                .unwrap_or(0);
            hits.extend(self.rules.get(&(length, masked)).into_iter().flatten());
        }
    }
}

/// Where the lengths of its family begin, the address as a number, and its width in bits.
fn number(ip: IpAddr) -> (u8, u128, u8) {
    match ip {
        IpAddr::V4(ip) => (V4, u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (0, ip.into(), 128),
    }
}
