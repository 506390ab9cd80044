//! Patterns of AdGuard filters, as binary rule-sets hold them.

use std::collections::HashSet;

use super::succinct::{Louds, reversed};
use crate::format::Trie;

/// Any text (`*`), also none.
const ANY: u8 = b'*';
/// The pattern goes on before the name does not have to: no `|` in front. Ends a key.
const PREFIX: u8 = b'\r';
/// The pattern begins at a label: `||` in front. Ends a key.
const ROOT: u8 = b'\n';
/// The name may go on behind the pattern: no `^` at its end. Begins a key.
const SUFFIX: u8 = 0x08;

/// How often a name is compared with a pattern at most, wildcards in wildcards.
const MAX_DEPTH: usize = 100;

/// Patterns for names, in a trie like that of a domain set. Source: `AdGuardMatcher` of the reference's
/// `common/domain`.
#[derive(Clone, Debug)]
pub struct AdGuardSet(Louds);

impl From<Trie> for AdGuardSet {
    fn from(trie: Trie) -> Self {
        Self(trie.into())
    }
}

impl AdGuardSet {
    /// Whether the (lower-case) name matches a pattern.
    pub fn contains(&self, name: &str) -> bool {
        let key = reversed(name);
        if self.find(&key) {
            return true;
        }
        // A pattern that ends before the name does begins with its mark, and then with any label of the name.
        let mut rest = &key[..];
        let mut marked = Vec::with_capacity(key.len() + 1);
        loop {
            marked.clear();
            marked.push(SUFFIX);
            marked.extend_from_slice(rest);
            if self.find(&marked) {
                return true;
            }
            match memchr::memchr(b'.', rest) {
                Some(dot) => rest = &rest[dot + 1..],
                None => return false,
            }
        }
    }

    fn find(&self, key: &[u8]) -> bool {
        let mut search = Search { trie: &self.0, key, seen: HashSet::new() };
        search.from(0, 0, 0)
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// The search for one key.
struct Search<'a> {
    trie: &'a Louds,
    key: &'a [u8],
    /// Where wildcards have led without success: places in the trie and in the key. Without it, patterns with many
    /// wildcards would take time without end.
    seen: HashSet<(u32, u32)>,
}

impl Search<'_> {
    /// Whether what follows of the key from `at` is below `node`.
    fn from(&mut self, mut node: usize, at: usize, depth: usize) -> bool {
        if depth > MAX_DEPTH || (depth > 0 && !self.seen.insert((node as u32, at as u32))) {
            return false;
        }
        for (at, byte) in self.key.iter().enumerate().skip(at) {
            let Some(next) = self.step(node, at, *byte, depth) else { return true };
            if next == NOWHERE {
                return false;
            }
            node = next;
        }
        self.end(node, depth)
    }

    /// The node that a byte leads to, or [`NOWHERE`]; `None` when the key is known to match.
    fn step(&mut self, node: usize, at: usize, byte: u8, depth: usize) -> Option<usize> {
        for edge in self.trie.edges(node) {
            match self.trie.labels(edge..edge + 1) {
                [PREFIX] => return None,
                [ROOT] if byte == b'.' && self.trie.is_leaf(edge + 1) => return None,
                [label] if *label == byte => return Some(edge + 1),
                [ANY | SUFFIX]
                    if (at..=self.key.len()).any(|next| self.from(edge + 1, next, depth + 1)) =>
                {
                    return None;
                }
                _ => {}
            }
        }
        Some(NOWHERE)
    }

    /// Whether a key that ends at `node` matches.
    fn end(&mut self, node: usize, depth: usize) -> bool {
        if self.trie.is_leaf(node) {
            return true;
        }
        for edge in self.trie.edges(node) {
            match self.trie.labels(edge..edge + 1) {
                [PREFIX | ROOT | SUFFIX] => return true,
                [ANY] => return self.from(edge + 1, self.key.len(), depth + 1),
                _ => {}
            }
        }
        false
    }
}

/// No node: the root is never led to.
const NOWHERE: usize = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::names;

    /// The key of a pattern as the reference makes it, turned to front.
    fn key(pattern: &str) -> String {
        let (mut rest, mut out) = (pattern, String::new());
        if let Some(tail) = rest.strip_prefix("||") {
            (rest, out) = (tail, "\n".to_owned());
        } else if let Some(tail) = rest.strip_prefix('|') {
            rest = tail;
        } else {
            out.push('\r');
        }
        match rest.strip_suffix('^') {
            Some(whole) => out + whole,
            None => out + rest.strip_suffix('.').unwrap_or(rest) + "\u{8}",
        }
    }

    fn set(patterns: &[&str]) -> AdGuardSet {
        let keys: Vec<String> = patterns.iter().map(|pattern| key(pattern)).collect();
        names::compile(&keys, &[], 3).unwrap().unwrap().into()
    }

    #[track_caller]
    fn check(patterns: &[&str], matching: &[&str], other: &[&str]) {
        let set = set(patterns);
        for name in matching {
            assert!(set.contains(name), "{patterns:?} on {name}");
        }
        for name in other {
            assert!(!set.contains(name), "{patterns:?} on {name}");
        }
    }

    #[test]
    fn edges_of_patterns() {
        check(
            &["||example.org^"],
            &["example.org", "www.example.org", "a.b.example.org"],
            &["notexample.org", "example.org.cn", "exampleorg"],
        );
        check(&["|example.org^"], &["example.org"], &["www.example.org", "notexample.org"]);
        check(&["example.org^"], &["notexample.org", "www.example.org"], &["example.org.cn"]);
        check(
            &["||example.org"],
            &["example.org.cn", "example.orgtest", "www.example.org.cn"],
            &["notexample.org", "example.com"],
        );
        check(&["|example.gov"], &["example.gov", "example.gov.cn"], &["www.example.gov"]);
        check(&["example.arpa"], &["isexample.arpa.cn", "www.example.arpa"], &["test.arpa"]);
    }

    #[test]
    fn wildcards() {
        check(
            &["||google.*^", "||*.youtube.com^", "|ads.*.com^"],
            &["google.cn", "www.google.com", "m.youtube.com", "ads.test.com"],
            &["notgoogle.com", "youtube.org", "www.ads.example.com", "adsexample.com"],
        );
        check(
            &["||test**test.com^"],
            &["testtest.com", "test123test.com", "testabc456test.com"],
            &["test.com", "atesttest.com"],
        );
        check(&["||*^"], &["anything.com"], &[]);
    }

    /// Neither deep nor many wildcards cost more than places in the trie times places in the name.
    #[test]
    fn many_wildcards_end() {
        let pattern = format!("|{}x^", "*a".repeat(60));
        let name = format!("{}y", "a".repeat(200));
        let started = std::time::Instant::now();
        check(&[&pattern], &[], &[&name]);
        assert!(started.elapsed().as_secs() < 5);
    }
}
