//! Patterns as keys of a trie, and matching names with them.
//!
//! Source: `AdGuardMatcher` of the reference's `common/domain`. A key is a pattern reversed; `\b` stands where anything
//! may follow the pattern, `\n` (`||`) or `\r` (neither `||` nor `|`) where something may stand before it.

use std::collections::HashSet;

use super::super::{FormatError, Trie, Walk, trie::Keys};

/// Anything may follow.
const OPEN: u8 = 0x08;
/// Begins at a label.
const TREE: u8 = b'\n';
/// Begins anywhere.
const ANYWHERE: u8 = b'\r';
const STAR: u8 = b'*';

/// How many places of the trie one name may be compared with: patterns with many stars could take for ever.
const MAX_STEPS: usize = 100_000;

/// The trie of these patterns; `None` for none.
///
/// # Errors
/// More than 4 GiB of patterns.
pub(super) fn compile<T: AsRef<str>>(patterns: &[T]) -> Result<Option<Trie>, FormatError> {
    let bytes = patterns.iter().map(|pattern| pattern.as_ref().len() + 2).sum();
    let mut keys = Keys::with_capacity(patterns.len(), bytes);
    for pattern in patterns {
        let pattern = pattern.as_ref();
        let (front, rest) = if let Some(rest) = pattern.strip_prefix("||") {
            ("\n", rest)
        } else if let Some(rest) = pattern.strip_prefix('|') {
            ("", rest)
        } else {
            ("\r", pattern)
        };
        let (open, rest) = match rest.strip_suffix('^') {
            Some(rest) => ("", rest),
            None => ("\u{8}", rest.strip_suffix('.').unwrap_or(rest)),
        };
        keys.push_reversed(&[open, rest, front])?;
    }
    keys.sort();
    Ok(Trie::new(&keys))
}

/// The patterns of one rule.
#[derive(Clone, Debug)]
pub struct Patterns(Walk);

impl Patterns {
    /// Patterns in the form that files have.
    #[must_use]
    pub fn new(trie: Trie) -> Self {
        Self(Walk::new(trie))
    }

    /// Whether one of them matches the (lower-case) name. A name that takes more than 100,000 comparisons does not.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let mut key = String::with_capacity(name.len());
        key.extend(name.chars().rev());
        let mut key = key.into_bytes();
        let mut search =
            Search { walk: &self.0, todo: Vec::new(), seen: HashSet::new(), left: MAX_STEPS };
        if search.from(&key) {
            return true;
        }
        // Where a pattern is open behind, it may also end before each dot.
        let root = self.0.edges(0);
        if self.0.child(root.clone(), OPEN).is_none() && self.0.child(root, STAR).is_none() {
            return false;
        }
        key.insert(0, OPEN);
        let mut rest = key.as_mut_slice();
        loop {
            if search.from(rest) {
                return true;
            }
            let Some(dot) = rest.iter().position(|byte| *byte == b'.') else { return false };
            let Some(next) = rest.get_mut(dot..) else { return false };
            if let Some(first) = next.first_mut() {
                *first = OPEN;
            }
            rest = next;
        }
    }
}

struct Search<'a> {
    walk: &'a Walk,
    /// Nodes and places in the key that are still to be looked at.
    todo: Vec<(usize, usize)>,
    seen: HashSet<(usize, usize)>,
    left: usize,
}

impl Search<'_> {
    fn from(&mut self, key: &[u8]) -> bool {
        self.todo.clear();
        self.seen.clear();
        self.todo.push((0, 0));
        while let Some((node, at)) = self.todo.pop() {
            if self.down(key, node, at) {
                return true;
            }
        }
        false
    }

    /// Goes down from a node as far as the key leads; where a star or an open end allows to skip, notes the places.
    fn down(&mut self, key: &[u8], mut node: usize, at: usize) -> bool {
        let walk = self.walk;
        for (place, byte) in key.iter().enumerate().skip(at) {
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => return false,
            }
            let mut next = None;
            let edges = walk.edges(node);
            for edge in edges.clone() {
                let Some(&label) = walk.labels().get(edge) else { return false };
                if label == ANYWHERE || label == TREE && *byte == b'.' && walk.is_leaf(edge + 1) {
                    return true;
                }
                if label == *byte {
                    next = Some(edge + 1);
                    break;
                }
                if label == STAR || label == OPEN {
                    for skipped in place..=key.len() {
                        self.note(edge + 1, skipped);
                    }
                }
            }
            match next {
                Some(child) => node = child,
                None => return false,
            }
        }
        if walk.is_leaf(node) {
            return true;
        }
        for edge in walk.edges(node) {
            match walk.labels().get(edge) {
                Some(&(ANYWHERE | TREE | OPEN)) => return true,
                Some(&STAR) => {
                    self.note(edge + 1, key.len());
                    return false;
                }
                _ => {}
            }
        }
        false
    }

    fn note(&mut self, node: usize, at: usize) {
        if self.seen.len() < MAX_STEPS && self.seen.insert((node, at)) {
            self.todo.push((node, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], yes: &[&str], no: &[&str]) {
        let set = Patterns::new(compile(patterns).unwrap().unwrap());
        for name in yes {
            assert!(set.contains(name), "{patterns:?} {name}");
        }
        for name in no {
            assert!(!set.contains(name), "{patterns:?} {name}");
        }
    }

    #[test]
    fn ends() {
        check(
            &["||example.org^"],
            &["example.org", "a.example.org"],
            &["notexample.org", "example.org.cn"],
        );
        check(&["|example.org^"], &["example.org"], &["a.example.org", "example.orgs"]);
        check(
            &["example.org^"],
            &["example.org", "notexample.org", "a.example.org"],
            &["example.org.cn"],
        );
        check(
            &["||example.org"],
            &["example.org", "example.org.cn", "example.orgtest", "www.example.org.cn"],
            &["notexample.org", "example.com"],
        );
        check(
            &["|example.gov"],
            &["example.gov", "example.gov.cn"],
            &["www.example.gov", "notexample.gov"],
        );
        check(
            &["example.arpa"],
            &["example.arpa", "isexample.arpa", "www.example.arpa.cn"],
            &["example.com", "test.arpa"],
        );
        check(&["ads."], &["ads.example", "myads", "x.ads.y"], &["ad.s"]);
    }

    #[test]
    fn stars() {
        check(
            &["||google.*^", "||*.youtube.com^", "||youtube.com^", "|ads.*.com^"],
            &[
                "google.cn",
                "www.google.com",
                "m.youtube.com",
                "youtube.com",
                "ads.x.com",
                "ads.x.y.com",
            ],
            &["notgoogle.com", "youtube.org", "www.ads.example.com", "adsexample.com"],
        );
        check(
            &["||test**test.com^"],
            &["testtest.com", "test123test.com", "a.testx.test.com"],
            &["test.com"],
        );
        check(&["||*^"], &["anything.example", "x"], &[]);
    }

    #[test]
    fn many_stars_end_in_time() {
        let pattern = format!("|{}b^", "*a".repeat(60));
        let set = Patterns::new(compile(&[pattern]).unwrap().unwrap());
        assert!(!set.contains(&"a".repeat(250)));
    }
}
