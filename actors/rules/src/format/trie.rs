//! The trie of names in `.srs` files: a tree in breadth-first order with one bit per edge and node (LOUDS).
//!
//! The form is that of the reference's `domain.succinctSet`: node 0 is the root; for each node in order, `bitmap` has a 0
//! for each of its labels and then a 1; label *n* leads to node *n* + 1; `leaves` marks the nodes where a key ends.
//! Keys are what is looked for, reversed (see `names`).

use std::ops::ControlFlow;

use super::{
    FormatError,
    bytes::{Reader, put_bytes, put_words},
};

/// A sound trie: every bit and label is there, and every node but the root is the child of one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trie {
    leaves: Box<[u64]>,
    bitmap: Box<[u64]>,
    labels: Box<[u8]>,
}

impl Trie {
    /// The trie of these keys, which are sorted and differ. `None` without keys: a trie has one node at least.
    pub(super) fn new(keys: &Keys) -> Option<Self> {
        if keys.ends.is_empty() {
            return None;
        }
        let nodes = breadth_first(depth_first(keys));
        let mut trie = Self {
            labels: nodes.iter().skip(1).map(|node| node.label).collect(),
            ..Self::default()
        };
        let (mut leaves, mut bitmap) = (Vec::new(), Vec::new());
        let mut bits = 0;
        for (at, node) in nodes.iter().enumerate() {
            if node.leaf {
                set(&mut leaves, at);
            }
            bits += usize::from(node.children);
            set(&mut bitmap, bits);
            bits += 1;
        }
        (trie.leaves, trie.bitmap) = (leaves.into(), bitmap.into());
        Some(trie)
    }

    /// Bits of nodes where a key ends. Words for trailing nodes without may be missing.
    #[must_use]
    pub fn leaves(&self) -> &[u64] {
        &self.leaves
    }

    /// A 0 for each label of a node, then a 1, node by node; zeros behind the last.
    #[must_use]
    pub fn bitmap(&self) -> &[u64] {
        &self.bitmap
    }

    /// The labels in the order of the zeros.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Leaves, bitmap and labels.
    #[must_use]
    #[expect(clippy::type_complexity, reason = "three members of one type each")]
    pub fn into_parts(self) -> (Box<[u64]>, Box<[u64]>, Box<[u8]>) {
        (self.leaves, self.bitmap, self.labels)
    }

    /// Calls with each key in the order of a walk in depth, until told to stop.
    pub(super) fn each_key(&self, mut found: impl FnMut(&[u8]) -> ControlFlow<()>) {
        // Where the labels of each node begin; the last entry is where those of the last node end.
        let mut begins = Vec::with_capacity(self.labels.len() + 2);
        begins.push(0u32);
        let mut label = 0u32;
        for bit in 0..self.bits() {
            if bit_at(&self.bitmap, bit) {
                begins.push(label);
            } else {
                label += 1;
            }
        }
        let labels_of = |node: usize| match begins.get(node..node + 2) {
            Some([begin, end]) => *begin as usize..*end as usize,
            _ => 0..0,
        };
        let mut key = Vec::new();
        if bit_at(&self.leaves, 0) && found(&key).is_break() {
            return;
        }
        let mut path = vec![labels_of(0)];
        while let Some(here) = path.last_mut() {
            let Some(edge) = here.next() else {
                path.pop();
                key.pop();
                continue;
            };
            key.extend(self.labels.get(edge));
            if bit_at(&self.leaves, edge + 1) && found(&key).is_break() {
                return;
            }
            path.push(labels_of(edge + 1));
        }
    }

    /// Bits of the bitmap that count.
    fn bits(&self) -> usize {
        2 * self.labels.len() + 1
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let start = reader.position();
        // A reserved byte, written as zero and ignored by the reference.
        reader.u8()?;
        let leaves = reader.words().map_err(|error| error.within("Leaves"))?;
        let bitmap = reader.words().map_err(|error| error.within("LabelBitmap"))?;
        let count = reader.count(1).map_err(|error| error.within("Labels"))?;
        let labels = reader.take(count)?.into();
        let trie = Self { leaves, bitmap, labels };
        match trie.flaw() {
            None => Ok(trie),
            Some(flaw) => Err(FormatError::at(start, format!("invalid domain matcher: {flaw}"))),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(0);
        put_words(out, &self.leaves);
        put_words(out, &self.bitmap);
        put_bytes(out, &self.labels);
    }

    /// What keeps it from being a tree.
    fn flaw(&self) -> Option<&'static str> {
        let nodes = self.labels.len() + 1;
        let bits = self.bits();
        let ones: usize = self.bitmap.iter().map(|word| word.count_ones() as usize).sum();
        if ones != nodes
            || self.bitmap.len() != bits.div_ceil(64)
            || !bit_at(&self.bitmap, bits - 1)
        {
            return Some("nodes and labels differ in number");
        }
        if self.leaves.len() > nodes.div_ceil(64) {
            return Some("more leaves than nodes");
        }
        // Where node n begins, n labels at least must have led to nodes; else a walk could come back to where it was.
        let (mut seen_labels, mut seen_nodes) = (0usize, 0usize);
        for word in &self.bitmap {
            let word_ones = word.count_ones() as usize;
            // Whole words where even the worst order of bits is fine are the rule.
            if seen_labels >= seen_nodes + word_ones {
                seen_nodes += word_ones;
                seen_labels += 64 - word_ones;
                continue;
            }
            for bit in 0..64 {
                if word >> bit & 1 == 0 {
                    seen_labels += 1;
                    continue;
                }
                seen_nodes += 1;
                if seen_nodes > seen_labels && seen_nodes < nodes {
                    return Some("a node that nothing leads to");
                }
            }
        }
        None
    }
}

/// Whether a bit is set; bits behind the end are not.
fn bit_at(words: &[u64], at: usize) -> bool {
    words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// Sets a bit, with as many words as it takes.
fn set(words: &mut Vec<u64>, at: usize) {
    if words.len() <= at / 64 {
        words.resize(at / 64 + 1, 0);
    }
    if let Some(word) = words.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

/// A node while a trie is made.
#[derive(Clone, Copy, Default)]
struct Node {
    depth: u32,
    children: u16,
    /// What leads to it.
    label: u8,
    leaf: bool,
}

/// The nodes in the order of the keys.
fn depth_first(keys: &Keys) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    // The nodes from the root to the end of the last key.
    let mut path = vec![0];
    let mut last: &[u8] = &[];
    for key in keys.iter() {
        let same = key.iter().zip(last).take_while(|(a, b)| a == b).count();
        path.truncate(same + 1);
        for (label, depth) in key.iter().skip(same).zip(same as u32 + 1..) {
            if let Some(parent) = path.last().and_then(|at: &usize| nodes.get_mut(*at)) {
                parent.children += 1;
            }
            path.push(nodes.len());
            nodes.push(Node { depth, label: *label, ..Node::default() });
        }
        if let Some(end) = path.last().and_then(|at| nodes.get_mut(*at)) {
            end.leaf = true;
        }
        last = key;
    }
    nodes
}

/// The same nodes by depth; those of one depth stay in order.
fn breadth_first(nodes: Vec<Node>) -> Vec<Node> {
    let depths = nodes.iter().map(|node| node.depth as usize + 1).max().unwrap_or_default();
    let mut next = vec![0usize; depths + 1];
    for node in &nodes {
        next[node.depth as usize + 1] += 1;
    }
    for depth in 1..next.len() {
        next[depth] += next[depth - 1];
    }
    let mut sorted = vec![Node::default(); nodes.len()];
    for node in nodes {
        let place = &mut next[node.depth as usize];
        sorted[*place] = node;
        *place += 1;
    }
    sorted
}

/// Keys in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl Keys {
    pub(super) fn with_capacity(keys: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(keys) }
    }

    /// Adds a key of these parts in this order, each turned back to front character by character.
    ///
    /// # Errors
    /// When all keys together take more than 4 GiB.
    pub(super) fn push_reversed(&mut self, parts: &[&str]) -> Result<(), FormatError> {
        let start = self.bytes.len();
        for part in parts {
            if part.is_ascii() {
                self.bytes.extend(part.bytes().rev());
            } else {
                let mut buffer = [0; 4];
                for character in part.chars().rev() {
                    self.bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                }
            }
        }
        match (u32::try_from(start), u32::try_from(self.bytes.len())) {
            (Ok(start), Ok(end)) => self.ends.push((start, end)),
            _ => return Err(FormatError::Message("too many names for one rule".to_owned())),
        }
        Ok(())
    }

    /// Sorts the keys, each once.
    pub(super) fn sort(&mut self) {
        let Self { bytes, ends } = self;
        let key = |&(start, end): &(u32, u32)| {
            bytes.get(start as usize..end as usize).unwrap_or_default()
        };
        // Most comparisons need no look at the keys themselves.
        let mut heads: Vec<(u64, (u32, u32))> =
            ends.iter().map(|ends| (head(key(ends)), *ends)).collect();
        heads.sort_unstable_by(|(a, a_ends), (b, b_ends)| {
            a.cmp(b).then_with(|| key(a_ends).cmp(key(b_ends)))
        });
        heads.dedup_by(|(a, a_ends), (b, b_ends)| a == b && key(a_ends) == key(b_ends));
        *ends = heads.into_iter().map(|(_, ends)| ends).collect();
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ends.iter().filter_map(|&(start, end)| self.bytes.get(start as usize..end as usize))
    }
}

/// The first bytes of a key as a number that sorts like them; missing ones are zero.
fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    head.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trie(keys: &[&str]) -> Trie {
        let mut all = Keys::default();
        for key in keys {
            all.push_reversed(&[key]).unwrap();
        }
        all.sort();
        Trie::new(&all).unwrap()
    }

    fn keys(trie: &Trie) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        trie.each_key(|key| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        });
        keys
    }

    fn round(trie: &Trie) -> Result<Trie, FormatError> {
        let mut out = Vec::new();
        trie.write(&mut out);
        Trie::read(&mut Reader::new(&out))
    }

    #[test]
    fn the_smallest() {
        let one = trie(&[""]);
        assert_eq!((one.leaves(), one.bitmap(), one.labels()), (&[1][..], &[1][..], &[][..]));
        assert_eq!(keys(&one), [b""]);
        assert!(Trie::new(&Keys::default()).is_none());
    }

    #[test]
    fn broken_ones_are_refused() {
        let good = trie(&["ab", "ac", "b"]);
        assert!(round(&good).is_ok());
        for (leaves, bitmap, labels) in [
            (vec![1], vec![], vec![]),
            (vec![1], vec![0b10], b"".to_vec()),
            // The second node's label leads to itself.
            (vec![1], vec![0b101], b"a".to_vec()),
            (vec![1], vec![0b011], b"a".to_vec()),
            (vec![1], vec![0b110], b"ab".to_vec()),
            (vec![1, 1], vec![0b110], b"a".to_vec()),
            (vec![1], vec![0b1_0000_0000_0110], b"a".to_vec()),
            (vec![1], vec![0b110, 0], b"a".to_vec()),
        ] {
            let bad = Trie { leaves: leaves.into(), bitmap: bitmap.into(), labels: labels.into() };
            assert!(round(&bad).is_err(), "{bad:?}");
        }
        let pair = Trie { leaves: [2].into(), bitmap: [0b110].into(), labels: (*b"a").into() };
        assert_eq!(keys(&round(&pair).unwrap()), [b"a"]);
    }

    proptest! {
        #[test]
        fn holds_its_keys(mut texts in prop::collection::vec("[abä\r\n.]{0,5}", 1..200)) {
            let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
            let trie = trie(&refs);
            prop_assert_eq!(trie.flaw(), None);
            prop_assert_eq!(&round(&trie).unwrap(), &trie);
            for text in &mut texts {
                *text = text.chars().rev().collect();
            }
            texts.sort();
            texts.dedup();
            let found: Vec<String> = keys(&trie).into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
            prop_assert_eq!(found, texts);
        }

        #[test]
        fn what_reads_is_sound(bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..80)) {
            if let Ok(trie) = Trie::read(&mut Reader::new(&bytes)) {
                let mut left = 1000;
                trie.each_key(|_| { left -= 1; if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) } });
            }
        }
    }
}
