//! One shard: a table and a list by last use, bounded in entries and bytes.

use hashbrown::HashTable;

/// Ends a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    hash: u64,
    key: Box<[u8]>,
    weight: usize,
    value: T,
    /// Used after this one.
    newer: u32,
    older: u32,
}

/// Least recently used entries go first.
#[derive(Debug)]
pub(crate) struct Lru<T> {
    table: HashTable<u32>,
    nodes: Vec<Option<Node<T>>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    most: usize,
    most_bytes: usize,
    bytes: usize,
}

impl<T> Lru<T> {
    /// For so many entries and bytes. Memory is taken as entries come.
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            table: HashTable::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            most,
            most_bytes,
            bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    fn node(&self, at: u32) -> Option<&Node<T>> {
        self.nodes.get(at as usize)?.as_ref()
    }

    fn node_mut(&mut self, at: u32) -> Option<&mut Node<T>> {
        self.nodes.get_mut(at as usize)?.as_mut()
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let nodes = &self.nodes;
        let equal = |at: &u32| {
            nodes.get(*at as usize).and_then(Option::as_ref).is_some_and(|node| *node.key == *key)
        };
        self.table.find(hash, equal).copied()
    }

    /// The value of a key, which counts as used.
    pub(crate) fn get(&mut self, hash: u64, key: &[u8]) -> Option<&T> {
        let at = self.find(hash, key)?;
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        self.node(at).map(|node| &node.value)
    }

    /// Puts a value in; one that is larger than a quarter of the shard is not kept.
    pub(crate) fn put(&mut self, hash: u64, key: &[u8], weight: usize, value: T) {
        let weight = weight + key.len() + size_of::<Node<T>>();
        self.remove(hash, key);
        if weight > self.most_bytes / 4 || self.most == 0 {
            return;
        }
        while self.table.len() >= self.most || self.bytes + weight > self.most_bytes {
            self.take(self.oldest);
        }
        let node = Node { hash, key: key.into(), weight, value, newer: NONE, older: NONE };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.nodes.push(None);
                (self.nodes.len() - 1) as u32
            }
        };
        if let Some(place) = self.nodes.get_mut(at as usize) {
            *place = Some(node);
        }
        self.bytes += weight;
        let nodes = &self.nodes;
        let hasher =
            |at: &u32| nodes.get(*at as usize).and_then(Option::as_ref).map_or(0, |node| node.hash);
        self.table.insert_unique(hash, at, hasher);
        self.link(at);
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Some(at) = self.find(hash, key) {
            self.take(at);
        }
    }

    fn take(&mut self, at: u32) {
        self.unlink(at);
        let Some(node) = self.nodes.get_mut(at as usize).and_then(Option::take) else { return };
        if let Ok(entry) = self.table.find_entry(node.hash, |other| *other == at) {
            entry.remove();
        }
        self.bytes -= node.weight;
        self.free.push(at);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.most, self.most_bytes);
    }

    /// Every entry, the one used last first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8], &T)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let node = self.node(at)?;
            at = node.older;
            Some((node.hash, &*node.key, &node.value))
        })
    }

    fn unlink(&mut self, at: u32) {
        let Some((newer, older)) = self.node(at).map(|node| (node.newer, node.older)) else {
            return;
        };
        match self.node_mut(newer) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.node_mut(older) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, at: u32) {
        let newest = self.newest;
        if let Some(node) = self.node_mut(at) {
            (node.newer, node.older) = (NONE, newest);
        }
        match self.node_mut(newest) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_forgets_what_was_used_longest_ago(
            steps in proptest::collection::vec((0u8..3, 0u8..12, 0u8..100), 0..300),
        ) {
            let mut lru = Lru::new(5, usize::MAX);
            // Newest at the back.
            let mut model: VecDeque<(u8, u8)> = VecDeque::new();
            for (what, key, value) in steps {
                // Few hashes: many keys share one.
                let hash = u64::from(key % 3);
                let place = model.iter().position(|(other, _)| *other == key);
                match what {
                    0 => {
                        lru.put(hash, &[key], 1, value);
                        place.map(|at| model.remove(at));
                        model.push_back((key, value));
                        if model.len() > 5 {
                            model.pop_front();
                        }
                    }
                    1 => {
                        let found = lru.get(hash, &[key]).copied();
                        let kept = place.and_then(|at| model.remove(at));
                        prop_assert_eq!(found, kept.map(|(_, value)| value));
                        model.extend(kept);
                    }
                    _ => {
                        lru.remove(hash, &[key]);
                        place.map(|at| model.remove(at));
                    }
                }
                let all: Vec<(u8, u8)> = lru.iter().map(|(_, key, value)| (key[0], *value)).collect();
                prop_assert_eq!(all, model.iter().rev().copied().collect::<Vec<_>>());
                prop_assert_eq!(lru.len(), model.len());
            }
        }
    }

    #[test]
    fn bytes_are_bounded() {
        let node = size_of::<Node<u8>>() + 1;
        let mut lru = Lru::new(100, 10 * (node + 50));
        for key in 0..20 {
            lru.put(u64::from(key), &[key], 50, key);
        }
        assert_eq!(lru.len(), 10);
        lru.put(1, &[1], 3 * (node + 50), 1);
        assert!(lru.get(1, &[1]).is_none(), "too large to be kept");
        lru.put(1, &[1], 2 * (node + 50), 1);
        assert_eq!(lru.len(), 8);
        lru.clear();
        assert_eq!((lru.len(), lru.bytes), (0, 0));
    }
}
