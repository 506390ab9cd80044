//! Where the index files rules: by text, by domain name, by prefix.

use std::{collections::HashMap, net::IpAddr};

use crate::item::{CidrSet, TextSet, parents, wanted};

/// Rules by a text that is compared exactly.
#[derive(Debug, Default)]
pub(super) struct Texts(HashMap<Box<str>, Vec<u32>>);

impl Texts {
    pub(super) fn file(&mut self, rule: u32, set: &TextSet) {
        for text in set.iter() {
            match self.0.get_mut(text) {
                Some(rules) => rules.push(rule),
                None => {
                    self.0.insert(text.into(), vec![rule]);
                }
            }
        }
    }

    pub(super) fn collect(&self, text: &str, hits: &mut Vec<u32>) {
        if !self.0.is_empty() {
            hits.extend(self.0.get(text).into_iter().flatten());
        }
    }
}

/// Rules by domain name. The rules of a name are a list within one vector, since most names have one.
#[derive(Debug, Default)]
pub(super) struct Domains {
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
    pub(super) fn file(&mut self, rule: u32, name: &str, how: u8) {
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

    pub(super) fn collect(&self, domain: &str, hits: &mut Vec<u32>) {
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
pub(super) struct Prefixes {
    rules: HashMap<(u8, u128), Vec<u32>>,
    /// The lengths that occur, those of IPv4 counted from [`V4`].
    lengths: Vec<u8>,
}

/// Keeps IPv4 lengths apart from those of IPv6, which end at 128.
const V4: u8 = 200;

impl Prefixes {
    pub(super) fn file(&mut self, at: u32, set: &CidrSet) {
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

    pub(super) fn collect(&self, ip: IpAddr, hits: &mut Vec<u32>) {
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
