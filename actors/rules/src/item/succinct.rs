//! Sets of byte strings as a trie in breadth-first order, one bit per edge and node (LOUDS), to be walked as it is.
//!
//! Node 0 is the root. For each node in order, `bitmap` has a 0 for each of its labels and then a 1; label *n* leads to
//! node *n* + 1. So the labels of node *n* begin behind the *n*-th 1, and finding that (`select`) is all there is to a
//! step. About ten bits a node: a set of 100,000 names takes little more than a megabyte.

use std::{fmt, ops::Range};

use crate::format::Trie;

/// Words of the bitmap that one entry of `before` counts.
const GROUP: usize = 4;
/// Ones for which one entry of `hints` tells the group.
const STRIDE: usize = 128;

/// A trie that can be walked.
#[derive(Clone, Default)]
pub(crate) struct Louds {
    leaves: Box<[u64]>,
    bitmap: Box<[u64]>,
    labels: Box<[u8]>,
    /// The ones before each group of words, and at last all of them.
    before: Box<[u32]>,
    /// The group of every [`STRIDE`]-th one, and at last the last group.
    hints: Box<[u32]>,
}

impl From<Trie> for Louds {
    fn from(trie: Trie) -> Self {
        let (leaves, bitmap, labels) = trie.into_parts();
        let (mut before, mut hints) = (Vec::new(), Vec::new());
        let mut ones = 0u32;
        for (group, words) in bitmap.chunks(GROUP).enumerate() {
            before.push(ones);
            ones += words.iter().map(|word| word.count_ones()).sum::<u32>();
            while hints.len() * STRIDE < ones as usize {
                hints.push(group as u32);
            }
        }
        hints.push(before.len().saturating_sub(1) as u32);
        before.push(ones);
        Self { leaves, bitmap, labels, before: before.into(), hints: hints.into() }
    }
}

impl Louds {
    /// Where the labels of a node are. Those of a node that does not exist are none.
    pub(crate) fn edges(&self, node: usize) -> Range<usize> {
        let from = match node.checked_sub(1) {
            None => Some(0),
            Some(before) => self.select(before).map(|at| at + 1),
        };
        let Some(from) = from else { return 0..0 };
        let end = self.next_one(from);
        from.saturating_sub(node)..end.saturating_sub(node)
    }

    /// These labels.
    pub(crate) fn labels(&self, edges: Range<usize>) -> &[u8] {
        self.labels.get(edges).unwrap_or_default()
    }

    /// Whether a key ends at this node.
    pub(crate) fn is_leaf(&self, node: usize) -> bool {
        self.leaves.get(node / 64).is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// The place of the `n`-th one, counted from 0.
    fn select(&self, n: usize) -> Option<usize> {
        let hint = self.hints.get(n / STRIDE..n / STRIDE + 2)?;
        let &[low, high] = hint else { return None };
        let counts = self.before.get(low as usize..=high as usize + 1)?;
        // The group before the first that begins with more ones than wanted.
        let within = counts.partition_point(|before| *before as usize <= n).checked_sub(1)?;
        let mut left = (n - *counts.get(within)? as usize) as u32;
        let first = (low as usize + within) * GROUP;
        for (at, word) in self.bitmap.iter().enumerate().skip(first).take(GROUP) {
            let ones = word.count_ones();
            if left < ones {
                return Some(at * 64 + select_in_word(*word, left));
            }
            left -= ones;
        }
        None
    }

    /// The place of the first one at `from` or behind.
    fn next_one(&self, from: usize) -> usize {
        let rest = self.bitmap.get(from / 64).map_or(0, |word| word >> (from % 64));
        if rest != 0 {
            return from + rest.trailing_zeros() as usize;
        }
        let behind = from / 64 + 1;
        let word = self.bitmap.iter().enumerate().skip(behind).find(|(_, word)| **word != 0);
        word.map_or(from, |(at, word)| at * 64 + word.trailing_zeros() as usize)
    }

    /// Every key, in the order of a walk in depth.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let (mut keys, mut key) = (Vec::new(), Vec::new());
        if self.is_leaf(0) {
            keys.push(key.clone());
        }
        let mut path = vec![self.edges(0)];
        while let Some(here) = path.last_mut() {
            let Some(edge) = here.next() else {
                path.pop();
                key.pop();
                continue;
            };
            key.extend(self.labels.get(edge));
            if self.is_leaf(edge + 1) {
                keys.push(key.clone());
            }
            path.push(self.edges(edge + 1));
        }
        keys
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        (self.leaves.len() + self.bitmap.len()) * 8
            + self.labels.len()
            + (self.before.len() + self.hints.len()) * 4
    }
}

impl fmt::Debug for Louds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Louds({} labels)", self.labels.len())
    }
}

/// The place of the `n`-th one in a word that has more than `n`.
fn select_in_word(word: u64, mut n: u32) -> usize {
    let (mut rest, mut at) = (word, 0);
    for width in [32, 16, 8, 4, 2, 1] {
        let ones = (rest & ((1u64 << width) - 1)).count_ones();
        if ones <= n {
            n -= ones;
            rest >>= width;
            at += width;
        }
    }
    at
}

/// The bytes of a text from its last character to its first. Bytes of one character keep their order.
pub(crate) fn reversed(text: &str) -> Reversed<'_> {
    if text.is_ascii() {
        return Reversed::Ascii(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut buffer = [0; 4];
    for character in text.chars().rev() {
        bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    }
    Reversed::Other(bytes)
}

/// See [`reversed`].
pub(crate) enum Reversed<'a> {
    Ascii(&'a [u8]),
    Other(Vec<u8>),
}

impl Reversed<'_> {
    /// The byte at a place.
    pub(crate) fn get(&self, at: usize) -> Option<u8> {
        match self {
            Self::Ascii(text) => text.len().checked_sub(at + 1).map(|back| text[back]),
            Self::Other(bytes) => bytes.get(at).copied(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ascii(text) => text.len(),
            Self::Other(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_of_a_word() {
        for word in
            [1, 0b1010_0110, u64::MAX, 1 << 63, 0x8000_0001_8000_0001, 0x00ff_0100_0000_8000]
        {
            let ones: Vec<usize> = (0..64).filter(|at| word >> at & 1 == 1).collect();
            for (n, at) in ones.iter().enumerate() {
                assert_eq!(select_in_word(word, n as u32), *at, "{word:x} {n}");
            }
        }
    }

    #[test]
    fn backwards() {
        let all = |text: &str| {
            let bytes = reversed(text);
            (0..bytes.len()).filter_map(|at| bytes.get(at)).collect::<Vec<u8>>()
        };
        assert_eq!(all("abc"), b"cba");
        assert_eq!(all("aü1"), "1üa".as_bytes());
        assert_eq!(reversed("ab").get(2), None);
    }
}
