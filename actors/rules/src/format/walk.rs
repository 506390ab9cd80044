//! Walking down a [`Trie`] without unfolding it.

use std::ops::Range;

use super::Trie;

/// Words of the bitmap that share one count.
const BLOCK: usize = 8;
/// Nodes that share one hint.
const NODES_A_HINT: usize = 256;

/// A trie that can be asked for the labels of a node. Beyond the trie itself it takes 32 bits for every 512 of the
/// bitmap and for every 256 nodes, an eighth of a bit a node each.
#[derive(Clone, Debug)]
pub struct Walk {
    trie: Trie,
    /// Nodes that end before each block of words.
    ended: Box<[u32]>,
    /// The block where every 256th node ends.
    hints: Box<[u32]>,
}

impl Walk {
    /// Counts once what the bitmap holds. Takes the time of one pass over it.
    #[must_use]
    pub fn new(trie: Trie) -> Self {
        let mut ended = Vec::with_capacity(trie.bitmap().len() / BLOCK + 1);
        let mut hints = Vec::with_capacity(trie.labels().len() / NODES_A_HINT + 1);
        let mut nodes = 0u32;
        for (block, words) in trie.bitmap().chunks(BLOCK).enumerate() {
            ended.push(nodes);
            nodes += words.iter().map(|word| word.count_ones()).sum::<u32>();
            while hints.len() * NODES_A_HINT < nodes as usize {
                hints.push(block as u32);
            }
        }
        Self { trie, ended: ended.into_boxed_slice(), hints: hints.into_boxed_slice() }
    }

    /// The labels, of which label *n* leads to node *n* + 1.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        self.trie.labels()
    }

    /// Whether a key ends at the node.
    #[must_use]
    pub fn is_leaf(&self, node: usize) -> bool {
        self.trie.leaves().get(node / 64).is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// Which labels leave the node; none for a node that is not there.
    #[must_use]
    pub fn edges(&self, node: usize) -> Range<usize> {
        // The bit where the labels of the node begin: behind the end of the node before.
        let begin = match node.checked_sub(1) {
            None => 0,
            Some(before) => match self.end_of(before) {
                Some(end) => end + 1,
                None => return 0..0,
            },
        };
        let first = begin - node;
        first..first + self.zeros_from(begin)
    }

    /// The node that `label` leads to among these edges.
    #[must_use]
    pub fn child(&self, edges: Range<usize>, label: u8) -> Option<usize> {
        let first = edges.start;
        let at = self.trie.labels().get(edges)?.iter().position(|known| *known == label)?;
        Some(first + at + 1)
    }

    /// The place of the 1 that ends the node.
    fn end_of(&self, node: usize) -> Option<usize> {
        let mut block = *self.hints.get(node / NODES_A_HINT)? as usize;
        while self.ended.get(block + 1).is_some_and(|ended| *ended as usize <= node) {
            block += 1;
        }
        let mut left = node.checked_sub(*self.ended.get(block)? as usize)?;
        let first = block * BLOCK;
        let words = self.trie.bitmap().get(first..)?;
        for (at, word) in words.iter().take(BLOCK).enumerate() {
            let ones = word.count_ones() as usize;
            if left < ones {
                return Some((first + at) * 64 + one_in(*word, left));
            }
            left -= ones;
        }
        None
    }

    /// How many zeros follow from this bit to the next 1.
    fn zeros_from(&self, bit: usize) -> usize {
        let words = self.trie.bitmap().get(bit / 64..).unwrap_or_default();
        let mut zeros = 0;
        for (at, word) in words.iter().enumerate() {
            let (word, width) =
                if at == 0 { (word >> (bit % 64), 64 - bit % 64) } else { (*word, 64) };
            if word != 0 {
                return zeros + word.trailing_zeros() as usize;
            }
            zeros += width;
        }
        0
    }
}

/// The place of the 1 in a word that has `before` of them before it.
fn one_in(mut word: u64, mut before: usize) -> usize {
    let mut place = 0;
    for half in [32, 16, 8] {
        let low = word & ((1 << half) - 1);
        let ones = low.count_ones() as usize;
        if ones <= before {
            before -= ones;
            place += half;
            word >>= half;
        } else {
            word = low;
        }
    }
    for _ in 0..before {
        word &= word.wrapping_sub(1);
    }
    place + word.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::trie::Keys;
    use proptest::prelude::*;

    fn has(walk: &Walk, key: &str) -> bool {
        let mut node = 0;
        for byte in key.bytes() {
            match walk.child(walk.edges(node), byte) {
                Some(child) => node = child,
                None => return false,
            }
        }
        walk.is_leaf(node)
    }

    fn walk(keys: &[String]) -> Walk {
        let mut all = Keys::default();
        for key in keys {
            all.push_reversed(&[&key.chars().rev().collect::<String>()]).unwrap();
        }
        all.sort();
        Walk::new(Trie::new(&all).unwrap())
    }

    #[test]
    fn finds_every_one() {
        for word in [1u64, 0x8000_0000_0000_0000, 0xdead_beef_0123_4567, u64::MAX] {
            let ones = (0..64).filter(|bit| word >> bit & 1 == 1);
            for (before, place) in ones.enumerate() {
                assert_eq!(one_in(word, before), place, "{word:x}");
            }
        }
    }

    #[test]
    fn a_thousand_keys() {
        let keys: Vec<String> = (0..5000).map(|n| format!("{:x}", n * 7919 % 65_521)).collect();
        let walk = walk(&keys);
        assert!(keys.iter().all(|key| has(&walk, key)));
        assert!(!has(&walk, "") && !has(&walk, "0123456"));
        assert_eq!(walk.edges(usize::MAX), 0..0);
    }

    proptest! {
        #[test]
        fn same_as_a_list(keys in prop::collection::vec("[ab]{0,6}", 1..60), probes in prop::collection::vec("[ab]{0,6}", 20)) {
            let walk = walk(&keys);
            for probe in keys.iter().chain(&probes) {
                prop_assert_eq!(has(&walk, probe), keys.contains(probe), "{}", probe);
            }
        }
    }
}
