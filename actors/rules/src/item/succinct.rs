//! Sets of byte strings as a trie in breadth-first order, one bit per edge and node (LOUDS), to be walked as it is.
//!
//! Node 0 is the root. For each node in order, `bitmap` has a 0 for each of its labels and then a 1; label *n* leads to
//! node *n* + 1. So the labels of node *n* begin behind the *n*-th 1, and finding that (`select`) is all there is to a
//! step. About ten bits a node: a set of 100,000 names takes little more than a megabyte.

use std::{fmt, ops::Range};

use crate::format::Trie;

/// Of how many ones the place of one is kept: about one word of the bitmap.
const STRIDE: usize = 32;

/// A trie that can be walked.
#[derive(Clone, Default)]
pub(crate) struct Louds {
    leaves: Box<[u64]>,
    bitmap: Box<[u64]>,
    labels: Box<[u8]>,
    /// The place of every [`STRIDE`]-th one.
    samples: Box<[u32]>,
}

impl From<Trie> for Louds {
    fn from(trie: Trie) -> Self {
        let (leaves, bitmap, labels) = trie.into_parts();
        let mut samples = Vec::with_capacity((labels.len() + 1).div_ceil(STRIDE));
        let mut ones = 0usize;
        for (at, word) in bitmap.iter().enumerate() {
            let within = word.count_ones() as usize;
            // A sample falls into this word for each multiple of the stride from `ones` on.
            for one in (ones.next_multiple_of(STRIDE)..ones + within).step_by(STRIDE) {
                samples.push((at * 64 + select_in_word(*word, (one - ones) as u32)) as u32);
            }
            ones += within;
        }
        Self { leaves, bitmap, labels, samples: samples.into() }
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
        let from = *self.samples.get(n / STRIDE)? as usize;
        let mut left = (n % STRIDE) as u32;
        let mut at = from / 64;
        let mut word = self.bitmap.get(at)? & (u64::MAX << (from % 64));
        loop {
            let ones = word.count_ones();
            if left < ones {
                return Some(at * 64 + select_in_word(word, left));
            }
            left -= ones;
            at += 1;
            word = *self.bitmap.get(at)?;
        }
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
        (self.leaves.len() + self.bitmap.len()) * 8 + self.labels.len() + self.samples.len() * 4
    }
}

impl fmt::Debug for Louds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Louds({} labels)", self.labels.len())
    }
}

/// The place of the `n`-th one in a word that has more than `n`.
fn select_in_word(word: u64, n: u32) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    // The ones of each byte, as in any count of bits without an instruction for it.
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // Each byte with those before it; how many of these sums are at most `n` tells the byte.
    let sums = bytes.wrapping_mul(EACH);
    let passed = (u64::from(n).wrapping_mul(EACH) | TOP).wrapping_sub(sums) & TOP;
    let shift = 8 * passed.count_ones();
    let before = (sums << 8) >> shift & 0xff;
    let mut byte = word >> shift & 0xff;
    for _ in before..u64::from(n) {
        byte &= byte.wrapping_sub(1);
    }
    (shift + byte.trailing_zeros()) as usize
}

/// The bytes of a text from its last character to its first. Bytes of one character keep their order.
pub(crate) fn reversed(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut buffer = [0; 4];
    for character in text.chars().rev() {
        bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    }
    bytes
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
        assert_eq!(reversed("abc"), b"cba");
        assert_eq!(reversed("aü1"), "1üa".as_bytes());
    }

    proptest::proptest! {
        #[test]
        fn every_one_is_found(word: u64) {
            let ones = (0..64).filter(|at| word >> at & 1 == 1);
            for (n, at) in ones.enumerate() {
                proptest::prop_assert_eq!(select_in_word(word, n as u32), at);
            }
        }
    }
}
