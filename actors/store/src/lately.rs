//! What was lately found of rejected answers: a look into the file costs more than the rest of a query from the cache.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

use parking_lot::Mutex;

/// So many are remembered, in 16 bytes each.
const MOST: usize = 4096;

/// `cache_id`, server, type, name.
type Question<'a> = (&'a str, &'a str, u16, &'a str);

/// Until when answers are rejected, in seconds since 1970: 0 for those that are not.
///
/// Kept by hashes of 64 bits with a key of this process: that two questions have the same one does not happen.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    key: RandomState,
    known: Mutex<HashMap<u64, u64>>,
}

impl Lately {
    /// What is known, or else what `find` finds.
    pub(crate) fn get(&self, question: Question<'_>, find: impl FnOnce() -> u64) -> u64 {
        let hash = self.hash(question);
        if let Some(until) = self.known.lock().get(&hash) {
            return *until;
        }
        let until = find();
        // Who has rejected it meanwhile knows better.
        let mut known = self.known.lock();
        make_room(&mut known);
        *known.entry(hash).or_insert(until)
    }

    /// An answer is rejected from now on.
    pub(crate) fn put(&self, question: Question<'_>, until: u64) {
        let mut known = self.known.lock();
        make_room(&mut known);
        known.insert(self.hash(question), until);
    }

    fn hash(&self, (id, server, qtype, name): Question<'_>) -> u64 {
        let mut hasher = self.key.build_hasher();
        (id, server, qtype).hash(&mut hasher);
        // As `plain` makes it, without making it.
        for byte in name.strip_suffix('.').unwrap_or(name).bytes() {
            hasher.write_u8(byte.to_ascii_lowercase());
        }
        hasher.finish()
    }
}

fn make_room(known: &mut HashMap<u64, u64>) {
    if known.len() >= MOST {
        known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_asked_once_and_knows_what_is_written() {
        let lately = Lately::default();
        let question = |name| ("", "dns", 1, name);
        assert_eq!(lately.get(question("a.test"), || 7), 7);
        assert_eq!(lately.get(question("A.Test."), || unreachable!()), 7);
        assert_eq!(lately.get(("", "dns", 28, "a.test"), || 0), 0);
        lately.put(question("a.test."), 9);
        assert_eq!(lately.get(question("a.test"), || unreachable!()), 9);
        for number in 0..3 * MOST {
            let name = number.to_string();
            lately.put(("", "dns", 1, &name), 1);
        }
        assert!(lately.known.lock().len() <= MOST);
    }
}
