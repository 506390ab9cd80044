//! Sets of domains: exact names, suffixes, keywords.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use memchr::{memchr2, memchr3};

use super::succinct::{Louds, reversed};
use crate::format::{Trie, names};

/// A domain item that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// An empty `domain`.
    #[error("domain: empty item is not allowed")]
    EmptyDomain,
    /// An empty `domain_suffix`.
    #[error("domain_suffix: empty item is not allowed")]
    EmptySuffix,
    /// More than 4 GiB of names.
    #[error("{0}")]
    TooMany(String),
}

/// The name itself matches.
const EXACT: u8 = 1;
/// The name and its sub-domains match (`domain_suffix` without leading dot).
const TREE: u8 = 2;
/// Its sub-domains match (`domain_suffix` with leading dot, which is not kept).
const BELOW: u8 = 4;

/// How many names are compared one by one before a trie pays.
const FEW: usize = 8;

/// How many keywords are searched for one by one before an automaton pays.
const FEW_WORDS: usize = 4;

/// `domain` and `domain_suffix` of one rule.
#[derive(Clone, Debug)]
pub struct DomainSet(Names);

#[derive(Clone, Debug)]
enum Names {
    Few(Box<[(Box<str>, u8)]>),
    Many(Louds),
}

impl DomainSet {
    /// A set of exact names and suffixes, compared as they are written (a rule with capital letters
    /// never matches, since names are lowered before they are compared).
    ///
    /// # Errors
    /// For an empty text.
    pub fn new(domains: &[String], suffixes: &[String]) -> Result<Self, DomainError> {
        if domains.iter().any(String::is_empty) {
            return Err(DomainError::EmptyDomain);
        }
        if suffixes.iter().any(String::is_empty) {
            return Err(DomainError::EmptySuffix);
        }
        if domains.len() + suffixes.len() > FEW {
            let trie = names::compile(domains, suffixes, crate::format::CURRENT_VERSION);
            let trie = trie.map_err(|error| DomainError::TooMany(error.to_string()))?;
            return Ok(Self(Names::Many(trie.map(Louds::from).unwrap_or_default())));
        }
        let domains = domains.iter().map(|name| (name.as_str().into(), EXACT));
        let suffixes = suffixes.iter().map(|suffix| match suffix.strip_prefix('.') {
            Some(name) => (name.into(), BELOW),
            None => (suffix.as_str().into(), TREE),
        });
        Ok(Self(Names::Few(domains.chain(suffixes).collect())))
    }

    /// Whether the (lower-case) name matches.
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Names::Few(few) => few.iter().any(|(known, how)| match name.strip_suffix(&**known) {
                Some("") => how & (EXACT | TREE) != 0,
                Some(front) => how & (TREE | BELOW) != 0 && front.ends_with('.'),
                None => false,
            }),
            Names::Many(trie) if name.is_ascii() => walk(trie, name.bytes().rev()),
            Names::Many(trie) => walk(trie, reversed(name).into_iter()),
        }
    }

    /// Every name with its flags, or nothing if there are more than `limit`, about.
    pub(crate) fn names(&self, limit: usize) -> Option<Vec<(Cow<'_, str>, u8)>> {
        match &self.0 {
            Names::Few(few) => {
                Some(few.iter().map(|(name, how)| (Cow::Borrowed(&**name), *how)).collect())
            }
            Names::Many(trie) if trie.bytes() > limit * 16 => None,
            Names::Many(trie) => {
                let name = |key: Vec<u8>| {
                    let name: String = String::from_utf8_lossy(&key).chars().rev().collect();
                    if let Some(below) = name.strip_prefix("\r.") {
                        (Cow::Owned(below.to_owned()), BELOW)
                    } else if let Some(tree) = name.strip_prefix('\n') {
                        (Cow::Owned(tree.to_owned()), TREE)
                    } else {
                        (Cow::Owned(name), EXACT)
                    }
                };
                Some(trie.keys().into_iter().map(name).collect())
            }
        }
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Names::Few(few) => few.iter().map(|(name, _)| name.len() + 24).sum(),
            Names::Many(trie) => trie.bytes(),
        }
    }
}

impl From<Trie> for DomainSet {
    /// The names of a binary rule-set, without unfolding them.
    fn from(trie: Trie) -> Self {
        Self(Names::Many(trie.into()))
    }
}

/// Looks a name up as the reference does, back to front. A label is a byte of a key, or one of the marks that end the key
/// of a suffix.
fn walk(trie: &Louds, key: impl Iterator<Item = u8>) -> bool {
    const BELOW: u8 = names::BELOW as u8;
    const TREE: u8 = names::TREE as u8;
    let mut node = 0;
    for byte in key {
        let mut edges = trie.edges(node);
        loop {
            let labels = trie.labels(edges.clone());
            let stop = |label: &u8| *label == byte || *label == BELOW || *label == TREE;
            let found = match labels.len() {
                // Most nodes have one label or two.
                ..8 => labels.iter().position(stop),
                _ => memchr3(byte, BELOW, TREE, labels),
            };
            let Some(found) = found else { return false };
            let edge = edges.start + found;
            match labels[found] {
                // Whatever follows is below.
                BELOW => return true,
                TREE if byte == b'.' && trie.is_leaf(edge + 1) => return true,
                label if label == byte => {
                    node = edge + 1;
                    break;
                }
                _ => edges.start = edge + 1,
            }
        }
    }
    trie.is_leaf(node) || memchr2(BELOW, TREE, trie.labels(trie.edges(node))).is_some()
}

/// The name itself (true) and what follows each of its dots (false).
pub(crate) fn parents(name: &str) -> impl Iterator<Item = (&str, bool)> {
    let below = name
        .bytes()
        .enumerate()
        .filter(|(_, b)| *b == b'.')
        .map(move |(at, _)| (&name[at + 1..], false));
    std::iter::once((name, true)).chain(below)
}

/// Which flags make a name match that is the whole, or a parent, of the one in question.
pub(crate) fn wanted(whole: bool) -> u8 {
    if whole { EXACT | TREE } else { TREE | BELOW }
}

/// `domain_keyword` of one rule.
#[derive(Clone, Debug)]
pub enum Keywords {
    /// Searched for one by one.
    Few(Box<[Box<str>]>),
    /// Searched for at once.
    Many(AhoCorasick),
}

impl Keywords {
    /// A set of keywords.
    ///
    /// # Errors
    /// When there are too many for one automaton.
    pub fn new<T: AsRef<str>>(keywords: &[T]) -> Result<Self, String> {
        if keywords.len() <= FEW_WORDS {
            return Ok(Self::Few(keywords.iter().map(|k| k.as_ref().into()).collect()));
        }
        // The smallest automaton: names are short.
        AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(keywords.iter().map(AsRef::as_ref))
            .map(Self::Many)
            .map_err(|error| error.to_string())
    }

    /// Whether one of them is in the (lower-case) name.
    pub fn is_in(&self, name: &str) -> bool {
        match self {
            Self::Few(few) => few.iter().any(|keyword| name.contains(&**keyword)),
            Self::Many(many) => many.is_match(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn exact_and_suffix() {
        for padding in [0, 16] {
            let mut domains = vec!["a.example".to_owned()];
            domains.extend((0..padding).map(|n| format!("pad{n}")));
            let set = DomainSet::new(&domains, &list(&["tree.example", ".below.example"])).unwrap();
            for name in [
                "a.example",
                "tree.example",
                "x.tree.example",
                "x.y.below.example",
                ".below.example",
            ] {
                assert!(set.contains(name), "{name}");
            }
            for name in
                ["b.a.example", "xtree.example", "below.example", "example", "", "A.example"]
            {
                assert!(!set.contains(name), "{name}");
            }
        }
    }

    #[test]
    fn empty_items_are_refused() {
        assert_eq!(
            DomainSet::new(&list(&[""]), &[]).unwrap_err().to_string(),
            "domain: empty item is not allowed"
        );
        assert_eq!(
            DomainSet::new(&[], &list(&[""])).unwrap_err().to_string(),
            "domain_suffix: empty item is not allowed"
        );
    }

    #[test]
    fn keywords() {
        for padding in [0, 8] {
            let mut words = vec!["ads".to_owned()];
            words.extend((0..padding).map(|n| format!("pad{n}")));
            let set = Keywords::new(&words).unwrap();
            assert!(set.is_in("myadserver.example") && !set.is_in("example.org"));
        }
        assert!(Keywords::new(&[""]).unwrap().is_in("anything"));
    }

    #[test]
    fn names_come_back() {
        let mut domains = list(&["a.example", "münchen.de"]);
        domains.extend((0..20).map(|n| format!("pad{n}")));
        let set = DomainSet::new(&domains, &list(&["tree", ".below"])).unwrap();
        let mut names = set.names(1000).unwrap();
        names.retain(|(name, _)| !name.starts_with("pad"));
        names.sort();
        let expected =
            [("a.example", EXACT), ("below", BELOW), ("münchen.de", EXACT), ("tree", TREE)];
        assert_eq!(names, expected.map(|(name, how)| (Cow::Borrowed(name), how)));
        assert!(set.contains("münchen.de") && !set.contains("x.münchen.de"));
        assert!(set.names(2).is_none());
    }

    fn naive(domains: &[String], suffixes: &[String], name: &str) -> bool {
        domains.iter().any(|domain| domain == name)
            || suffixes.iter().any(|suffix| match suffix.starts_with('.') {
                true => name.ends_with(suffix.as_str()),
                false => name == suffix || name.ends_with(&format!(".{suffix}")),
            })
    }

    proptest! {
        #[test]
        fn same_as_naive(domains in prop::collection::vec("[abü.]{1,4}", 0..24), suffixes in prop::collection::vec("[abü.]{1,4}", 0..24),
                         names in prop::collection::vec("[abü.]{1,7}", 16)) {
            let set = DomainSet::new(&domains, &suffixes).unwrap();
            for version in 1..=3 {
                // As it comes from a file of any version.
                let trie = names::compile(&domains, &suffixes, version).unwrap();
                let binary = trie.map_or_else(|| DomainSet::new(&[], &[]).unwrap(), DomainSet::from);
                for name in names.iter().chain(&domains).chain(&suffixes) {
                    let expected = naive(&domains, &suffixes, name);
                    prop_assert_eq!(set.contains(name), expected, "{}", name);
                    prop_assert_eq!(binary.contains(name), expected, "{} in version {}", name, version);
                }
            }
        }

        #[test]
        fn large_ones(words in prop::collection::vec("[a-d]{1,3}(\\.[a-d]{1,2}){0,3}", 300..600), names in prop::collection::vec("[a-d]{1,3}(\\.[a-d]{1,2}){0,3}", 64)) {
            let (domains, suffixes) = words.split_at(words.len() / 2);
            let set = DomainSet::new(domains, suffixes).unwrap();
            for name in names.iter().chain(&words) {
                prop_assert_eq!(set.contains(name), naive(domains, suffixes, name), "{}", name);
            }
        }
    }
}
