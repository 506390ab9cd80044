//! `domain` and `domain_suffix` as keys of a [`Trie`], and back.
//!
//! Source: `Matcher` of the reference's `common/domain`. A key is a name reversed. A name that stands for its
//! sub-domains ends in a mark: `\n` behind a name for it and all below (versions 2 and 3), `\r` behind a leading dot
//! for what is below. Version 1 writes two keys instead of the first.

use std::{collections::HashSet, ops::ControlFlow};

use super::{FormatError, Trie, trie::Keys};

/// Ends a key that stands for everything below, where the name begins with its dot.
pub(crate) const BELOW: char = '\r';
/// Ends a key that stands for a name and everything below.
pub(crate) const TREE: char = '\n';

/// The trie of these names; `None` for none.
///
/// # Errors
/// An empty suffix (the reference crashes), or more than 4 GiB of names.
pub(crate) fn compile(
    domains: &[String],
    suffixes: &[String],
    version: u8,
) -> Result<Option<Trie>, FormatError> {
    let two_keys = version == 1;
    let bytes = domains.iter().chain(suffixes).map(|name| name.len() + 1).sum();
    let mut keys = Keys::with_capacity(domains.len() + suffixes.len(), bytes);
    let mut known: HashSet<&str> = HashSet::with_capacity(suffixes.len());
    for suffix in suffixes {
        if suffix.is_empty() {
            let message = "domain_suffix: empty item is not allowed";
            return Err(FormatError::Message(message.to_owned()));
        }
        if !known.insert(suffix) {
            continue;
        }
        if suffix.starts_with('.') {
            keys.push_reversed(&[suffix, "\r"])?;
        } else if two_keys {
            keys.push_reversed(&[suffix])?;
            keys.push_reversed(&[suffix, ".", "\r"])?;
        } else {
            keys.push_reversed(&[suffix, "\n"])?;
        }
    }
    for domain in domains {
        let below = || domain.strip_prefix('.').filter(|name| !name.starts_with('.'));
        // A suffix of the same text is thought to cover the name, and is not repeated.
        let covered = known.contains(domain.as_str())
            || two_keys && below().is_some_and(|name| known.contains(name));
        if !covered {
            keys.push_reversed(&[domain])?;
        }
    }
    keys.sort();
    Ok(Trie::new(&keys))
}

/// The names in a trie as (`domain`, `domain_suffix`), each sorted.
///
/// Names with the mark for what is below that stand in the set themselves, too, become one suffix, whatever version the
/// file has: that is how version 1 writes it.
///
/// # Errors
/// When the trie stands for more than `budget` bytes of names.
pub(super) fn decompile(
    trie: &Trie,
    budget: &mut usize,
) -> Result<(Vec<String>, Vec<String>), FormatError> {
    let (mut exact, mut below, mut suffixes) = (HashSet::new(), HashSet::new(), Vec::new());
    each_name(trie, budget, |name| {
        if let Some(name) = name.strip_prefix(BELOW) {
            below.insert(name.to_owned());
        } else if let Some(name) = name.strip_prefix(TREE) {
            suffixes.push(name.to_owned());
        } else {
            exact.insert(name);
        }
    })?;
    for name in below {
        match name.strip_prefix('.') {
            Some(root) if !root.is_empty() && exact.remove(root) => suffixes.push(root.to_owned()),
            _ => suffixes.push(name),
        }
    }
    let mut domains: Vec<String> = exact.into_iter().collect();
    domains.sort_unstable();
    suffixes.sort_unstable();
    Ok((domains, suffixes))
}

/// Calls with each key, turned to front again.
pub(super) fn each_name(
    trie: &Trie,
    budget: &mut usize,
    mut found: impl FnMut(String),
) -> Result<(), FormatError> {
    let mut over = false;
    trie.each_key(|key| {
        // A few bytes of a trie can stand for many long names.
        match budget.checked_sub(key.len() + 32) {
            Some(left) => *budget = left,
            None => {
                over = true;
                return ControlFlow::Break(());
            }
        }
        found(String::from_utf8_lossy(key).chars().rev().collect());
        ControlFlow::Continue(())
    });
    if over {
        Err(FormatError::Message("too many names in a domain matcher".to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn both_ways(domains: &[&str], suffixes: &[&str], version: u8) -> (Vec<String>, Vec<String>) {
        let trie = compile(&strings(domains), &strings(suffixes), version).unwrap().unwrap();
        decompile(&trie, &mut 10_000).unwrap()
    }

    #[test]
    fn every_version_says_the_same() {
        for version in 1..=3 {
            let (domains, suffixes) = both_ways(
                &["b.example", "a.example", "a.example"],
                &["tree", ".below", "münchen.de"],
                version,
            );
            assert_eq!(domains, strings(&["a.example", "b.example"]));
            assert_eq!(suffixes, strings(&[".below", "münchen.de", "tree"]));
        }
    }

    #[test]
    fn a_name_and_what_is_below_it_are_a_suffix() {
        assert_eq!(both_ways(&["x"], &[".x"], 3), (vec![], strings(&["x"])));
        assert_eq!(both_ways(&["x"], &["x"], 2), (vec![], strings(&["x"])));
        assert_eq!(both_ways(&[".x"], &["x"], 1), (vec![], strings(&["x"])));
    }

    #[test]
    fn limits() {
        assert!(compile(&[], &[], 3).unwrap().is_none());
        assert!(compile(&[], &strings(&[""]), 3).is_err());
        let trie = compile(&strings(&["abc", "abd"]), &[], 3).unwrap().unwrap();
        assert!(decompile(&trie, &mut 40).is_err());
    }

    proptest! {
        #[test]
        fn again_and_again_the_same(domains in prop::collection::vec("[abö]{1,2}(\\.[ab]{1,2}){0,2}", 1..20), suffixes in prop::collection::vec("\\.?[ab]{1,2}(\\.[ab]{1,2}){0,2}", 0..20), version in 1u8..=3) {
            let trie = compile(&domains, &suffixes, version).unwrap().unwrap();
            let (domains, suffixes) = decompile(&trie, &mut 100_000).unwrap();
            let second = compile(&domains, &suffixes, version).unwrap().unwrap();
            let (domains2, suffixes2) = decompile(&second, &mut 100_000).unwrap();
            prop_assert_eq!((domains, suffixes), (domains2, suffixes2));
        }
    }
}
