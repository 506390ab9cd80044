//! Sets of domains: exact names, suffixes, keywords.

use std::{collections::HashMap, sync::Arc};

use aho_corasick::AhoCorasick;

/// A domain item that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// An empty `domain`.
    #[error("domain: empty item is not allowed")]
    EmptyDomain,
    /// An empty `domain_suffix`.
    #[error("domain_suffix: empty item is not allowed")]
    EmptySuffix,
}

/// The name itself matches.
const EXACT: u8 = 1;
/// The name and its sub-domains match (`domain_suffix` without leading dot).
const TREE: u8 = 2;
/// Its sub-domains match (`domain_suffix` with leading dot, which is not kept).
const BELOW: u8 = 4;

/// How many names are compared one by one before hashing pays.
const FEW: usize = 4;

/// `domain` and `domain_suffix` of one rule.
#[derive(Clone, Debug)]
pub struct DomainSet(Names);

#[derive(Clone, Debug)]
enum Names {
    Few(Box<[(Arc<str>, u8)]>),
    Many(HashMap<Arc<str>, u8>),
}

impl DomainSet {
    /// A set of exact names and suffixes, compared as they are written (a rule with capital letters
    /// never matches, since names are lowered before they are compared).
    ///
    /// # Errors
    /// For an empty text.
    pub fn new<D: AsRef<str>, S: AsRef<str>>(
        domains: &[D],
        suffixes: &[S],
    ) -> Result<Self, DomainError> {
        let mut names = Vec::with_capacity(domains.len() + suffixes.len());
        for domain in domains.iter().map(AsRef::as_ref) {
            if domain.is_empty() {
                return Err(DomainError::EmptyDomain);
            }
            names.push((domain, EXACT));
        }
        for suffix in suffixes.iter().map(AsRef::as_ref) {
            if suffix.is_empty() {
                return Err(DomainError::EmptySuffix);
            }
            names.push(match suffix.strip_prefix('.') {
                Some(name) => (name, BELOW),
                None => (suffix, TREE),
            });
        }
        if names.len() <= FEW {
            return Ok(Self(Names::Few(
                names.into_iter().map(|(name, how)| (name.into(), how)).collect(),
            )));
        }
        let mut many: HashMap<Arc<str>, u8> = HashMap::with_capacity(names.len());
        for (name, how) in names {
            match many.get_mut(name) {
                Some(flags) => *flags |= how,
                None => {
                    many.insert(name.into(), how);
                }
            }
        }
        Ok(Self(Names::Many(many)))
    }

    /// Whether the (lower-case) name matches.
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Names::Few(few) => few.iter().any(|(known, how)| match name.strip_suffix(&**known) {
                Some("") => how & (EXACT | TREE) != 0,
                Some(front) => how & (TREE | BELOW) != 0 && front.ends_with('.'),
                None => false,
            }),
            Names::Many(many) => parents(name)
                .any(|(part, whole)| many.get(part).is_some_and(|how| how & wanted(whole) != 0)),
        }
    }

    /// Every name with its flags.
    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = (&Arc<str>, u8)> + '_> {
        match &self.0 {
            Names::Few(few) => Box::new(few.iter().map(|(name, how)| (name, *how))),
            Names::Many(many) => Box::new(many.iter().map(|(name, how)| (name, *how))),
        }
    }
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
        if keywords.len() <= FEW {
            return Ok(Self::Few(keywords.iter().map(|k| k.as_ref().into()).collect()));
        }
        AhoCorasick::new(keywords.iter().map(AsRef::as_ref))
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

    const NONE: &[&str] = &[];

    #[test]
    fn exact_and_suffix() {
        for padding in [0, 8] {
            let mut domains = vec!["a.example".to_owned()];
            domains.extend((0..padding).map(|n| format!("pad{n}")));
            let set = DomainSet::new(&domains, &["tree.example", ".below.example"]).unwrap();
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
            DomainSet::new(&[""], NONE).unwrap_err().to_string(),
            "domain: empty item is not allowed"
        );
        assert_eq!(
            DomainSet::new(NONE, &[""]).unwrap_err().to_string(),
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

    proptest! {
        #[test]
        fn same_as_naive(domains in prop::collection::vec("[ab.]{1,4}", 0..6), suffixes in prop::collection::vec("[ab.]{1,4}", 0..6),
                         name in "[ab.]{0,6}") {
            let set = DomainSet::new(&domains, &suffixes).unwrap();
            let naive = domains.contains(&name)
                || suffixes.iter().any(|s| if s.starts_with('.') { name.ends_with(s.as_str()) } else { name == *s || name.ends_with(&format!(".{s}")) });
            prop_assert_eq!(set.contains(&name), naive);
        }
    }
}
