//! Binary rule-sets that nobody's compiler writes: tries with labels in any order, many times, anywhere.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use proptest::prelude::*;

use super::*;
use crate::format;

/// A trie as lists: for each node in breadth-first order its labels, and whether a key ends there. Label *n* of all leads
/// to node *n* + 1.
#[derive(Clone, Debug)]
struct Tree {
    nodes: Vec<(Vec<u8>, bool)>,
}

fn trees() -> impl Strategy<Value = Tree> {
    let label = prop::sample::select(&b"ab.*\n\r\x08"[..]);
    let node = (prop::collection::vec(label, 0..4), any::<bool>());
    prop::collection::vec(node, 1..24).prop_map(|mut nodes| {
        // As many nodes as labels lead to.
        let mut reached = 1;
        for at in 0..nodes.len() {
            let all = nodes.len();
            let (labels, _) = &mut nodes[at];
            labels.truncate(if at < reached { all - reached } else { 0 });
            reached += labels.len();
        }
        nodes.truncate(reached);
        Tree { nodes }
    })
}

impl Tree {
    /// A rule-set with the trie as its only item.
    fn set(&self, item: u8) -> Compiled {
        let mut bits = Vec::new();
        let mut labels: Vec<u8> = Vec::new();
        for (own, _) in &self.nodes {
            bits.extend(own.iter().map(|_| false));
            bits.push(true);
            labels.extend(own);
        }
        let leaves: Vec<bool> = self.nodes.iter().map(|(_, leaf)| *leaf).collect();
        let mut body = vec![1, 0, item, 0];
        for bits in [leaves, bits] {
            let words = bits.chunks(64).map(|chunk| {
                chunk.iter().enumerate().fold(0u64, |word, (at, bit)| word | u64::from(*bit) << at)
            });
            let words: Vec<u64> = words.collect();
            body.push(words.len() as u8);
            words.iter().for_each(|word| body.extend(word.to_be_bytes()));
        }
        body.push(labels.len() as u8);
        body.extend(labels);
        body.extend([0xff, 0]);
        let mut file = b"SRS\x03".to_vec();
        let mut zlib = ZlibEncoder::new(&mut file, Compression::fast());
        zlib.write_all(&body).and_then(|()| zlib.finish().map(drop)).unwrap();
        Compiled::new(format::srs::read(&file).unwrap(), Compat::default()).unwrap()
    }

    /// The labels of a node with the nodes that they lead to.
    fn edges(&self, node: usize) -> impl Iterator<Item = (u8, usize)> {
        let before: usize = self.nodes[..node].iter().map(|(labels, _)| labels.len()).sum();
        self.nodes[node].0.iter().enumerate().map(move |(at, label)| (*label, before + at + 1))
    }

    /// As the reference walks: label by label, the first that says something counts.
    fn walk(&self, name: &str) -> bool {
        let mut node = 0;
        'key: for byte in name.bytes().rev() {
            for (label, next) in self.edges(node) {
                if label == b'\r' || (label == b'\n' && byte == b'.' && self.nodes[next].1) {
                    return true;
                }
                if label == byte {
                    node = next;
                    continue 'key;
                }
            }
            return false;
        }
        self.nodes[node].1 || self.nodes[node].0.iter().any(|label| matches!(label, b'\r' | b'\n'))
    }
}

proptest! {
    #[test]
    fn names_are_found_as_in_the_reference(tree in trees(), names in prop::collection::vec("[ab.]{1,6}", 8)) {
        const DOMAIN: u8 = 2;
        let set = tree.set(DOMAIN);
        for name in names {
            let found = set.matching(&Facts::destination(&name)).count() == 1;
            prop_assert_eq!(found, tree.walk(&name), "{}", name);
        }
    }

    #[test]
    fn patterns_never_panic_or_hang(tree in trees(), names in prop::collection::vec("[ab.*]{1,40}", 8)) {
        const ADGUARD_DOMAIN: u8 = 16;
        let set = tree.set(ADGUARD_DOMAIN);
        for name in names {
            set.matching(&Facts::destination(&name)).count();
        }
    }
}
