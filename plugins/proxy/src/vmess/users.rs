//! Users of a server: by the block in front of a sealed request, and by the hash in front of a legacy one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crosspoint_layers::roster::{Roster, unchanged};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;

use super::{
    crypto::{Forged, KEY},
    header::{CLOCK_SKEW, time_of},
    keys::{ServerKey, alter_id},
};
use crate::uuid::{self, Uuid};

/// A user as the configuration has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in logs and rules.
    pub name: Arc<str>,
    /// Id.
    pub id: Uuid,
    /// How many alternative ids; with none, only sealed requests are taken.
    pub alter_ids: usize,
}

impl Entry {
    /// A user with an id as it is written.
    #[must_use]
    pub fn new(name: Arc<str>, id: &str, alter_ids: i64) -> Self {
        Self { name, id: uuid::id(id), alter_ids: usize::try_from(alter_ids).unwrap_or(0) }
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Found {
    /// The user's name.
    pub name: Arc<str>,
    /// The key of its requests.
    pub command_key: [u8; KEY],
    /// The time that the request tells, in seconds since 1970.
    pub time: u64,
    /// Not sealed.
    pub legacy: bool,
}

/// Users of a server.
#[derive(Debug)]
pub struct Users {
    list: Vec<(Entry, ServerKey)>,
    legacy: Option<Mutex<Hashes>>,
}

impl Users {
    /// Users, those of equal ids in favour of the first.
    ///
    /// # Errors
    /// Never: keys have the right length.
    pub fn new(entries: Vec<Entry>, now: u64) -> Result<Self, Forged> {
        let hashes = Hashes::new(&entries);
        let legacy = (!hashes.seeds.is_empty()).then(|| {
            let mut hashes = hashes;
            hashes.reach(now);
            Mutex::new(hashes)
        });
        let with_key = |entry: Entry| Ok((entry.clone(), ServerKey::new(&entry.id)?));
        Ok(Self { list: entries.into_iter().map(with_key).collect::<Result<_, _>>()?, legacy })
    }

    /// Whether there are legacy users.
    #[must_use]
    pub fn has_legacy(&self) -> bool {
        self.legacy.is_some()
    }

    /// Who sent a request that begins so. The time of a sealed one is not checked yet.
    #[must_use]
    pub fn find(&self, block: &[u8; KEY], now: u64) -> Option<Found> {
        let found = |(entry, key): &(Entry, ServerKey), time, legacy| Found {
            name: entry.name.clone(),
            command_key: key.command,
            time,
            legacy,
        };
        for user in &self.list {
            if let Some(time) = time_of(&user.1.show(block)) {
                return Some(found(user, time, false));
            }
        }
        let mut hashes = self.legacy.as_ref()?.lock();
        hashes.reach(now);
        let (user, time) = hashes.find(block, now)?;
        self.list.get(user).map(|user| found(user, time, true))
    }

    fn named(&self) -> impl Iterator<Item = (&str, (Uuid, bool))> {
        self.list.iter().map(|(entry, _)| (&*entry.name, (entry.id, entry.alter_ids > 0)))
    }
}

impl Roster for Users {
    fn has(&self, user: Option<&str>) -> bool {
        user.is_some_and(|name| self.list.iter().any(|(entry, _)| *entry.name == *name))
    }

    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a {
        let same = unchanged(self.named(), old.named());
        move |user| user.is_some_and(|name| same.contains(name))
    }
}

/// Seconds of a table.
const SPAN: u64 = 32;

/// The hashes that legacy clients may send now: HMAC-MD5 of the time, for every second within the skew of clocks and
/// every alternative id.
#[derive(Debug)]
struct Hashes {
    seeds: Vec<Seed>,
    /// Tables of [`SPAN`] seconds each, one after the other.
    tables: VecDeque<Table>,
}

#[derive(Debug)]
struct Table {
    from: u64,
    by_hash: HashMap<[u8; KEY], (usize, u64)>,
}

/// HMAC-MD5 of an alternative id, before the message.
struct Seed {
    user: usize,
    inner: Md5,
    outer: Md5,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Seed {
    fn new(user: usize, id: &Uuid) -> Self {
        let padded = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(id).for_each(|(to, from)| *to ^= from);
            Md5::new_with_prefix(block)
        };
        Self { user, inner: padded(0x36), outer: padded(0x5c) }
    }

    fn hash(&self, time: u64) -> [u8; KEY] {
        let inner = self.inner.clone().chain_update(time.to_be_bytes()).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

impl Hashes {
    fn new(entries: &[Entry]) -> Self {
        let mut seeds = Vec::new();
        for (user, entry) in entries.iter().enumerate() {
            let mut id = entry.id;
            for _ in 0..entry.alter_ids {
                id = alter_id(&id);
                seeds.push(Seed::new(user, &id));
            }
        }
        Self { seeds, tables: VecDeque::new() }
    }

    /// Makes the hashes around `now`, and forgets those that are too old.
    fn reach(&mut self, now: u64) {
        let (first, last) = (now.saturating_sub(CLOCK_SKEW), now.saturating_add(CLOCK_SKEW));
        self.tables.retain(|table| table.from + SPAN > first && table.from <= last);
        let mut from = match self.tables.back() {
            // The clock was set back, or this is the first time.
            None => first,
            Some(_) if self.tables.front().is_none_or(|table| table.from > first) => {
                self.tables.clear();
                first
            }
            Some(table) => table.from + SPAN,
        };
        while from <= last {
            let mut by_hash = HashMap::with_capacity(self.seeds.len() * SPAN as usize);
            for seed in &self.seeds {
                for time in from..from + SPAN {
                    by_hash.entry(seed.hash(time)).or_insert((seed.user, time));
                }
            }
            self.tables.push_back(Table { from, by_hash });
            from += SPAN;
        }
    }

    fn find(&self, hash: &[u8; KEY], now: u64) -> Option<(usize, u64)> {
        let found = self.tables.iter().find_map(|table| table.by_hash.get(hash).copied());
        found.filter(|(_, time)| time.abs_diff(now) <= CLOCK_SKEW)
    }
}

/// The hash that a legacy client sends at a time.
#[must_use]
pub fn legacy_hash(id: &Uuid, time: u64) -> [u8; KEY] {
    Seed::new(0, &alter_id(id)).hash(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmess::{
        body::{Options, Security},
        header::{Command, Request},
        keys::{ClientKey, first},
    };

    fn users(now: u64) -> Users {
        let entry = |name: &str, alter_ids| Entry::new(name.into(), name, alter_ids);
        Users::new(vec![entry("ann", 0), entry("bob", 2), entry("cleo", 1)], now).unwrap()
    }

    #[test]
    fn sealed_requests_tell_their_user() {
        let users = users(0);
        let key = ClientKey::new(&uuid::id("bob")).unwrap();
        let request = Request::new(Options(1), Security::None, Command::Mux, None);
        let block = first(&request.seal(&key, 5).unwrap());
        let found = users.find(&block, 5).unwrap();
        assert_eq!((&*found.name, found.time, found.legacy), ("bob", 5, false));
        assert!(users.find(&[0; 16], 5).is_none());
    }

    #[test]
    fn legacy_hashes_are_good_for_two_minutes_either_way() {
        let start = 1_700_000_000;
        let users = users(start);
        for now in [start, start + 1, start + 40, start + 5000, start - 100] {
            for (skew, known) in [(0, true), (-120, true), (120, true), (-121, false), (121, false)]
            {
                let time = now.saturating_add_signed(skew);
                let found = users.find(&legacy_hash(&uuid::id("cleo"), time), now);
                assert_eq!(
                    found.as_ref().map(|found| (&*found.name, found.time)),
                    known.then_some(("cleo", time))
                );
            }
            assert!(users.find(&legacy_hash(&uuid::id("ann"), now), now).is_none());
            // The second of the alternative ids.
            let second = alter_id(&uuid::id("bob"));
            assert!(users.find(&legacy_hash(&second, now), now).is_some());
            let third = alter_id(&second);
            assert!(users.find(&legacy_hash(&third, now), now).is_none());
        }
    }

    #[test]
    fn a_user_is_the_same_with_the_same_id() {
        let (old, new) = (
            users(0),
            Users::new(
                vec![Entry::new("ann".into(), "else", 0), Entry::new("bob".into(), "bob", 3)],
                0,
            )
            .unwrap(),
        );
        let stays = new.stays(&old);
        assert!(stays(Some("bob")) && !stays(Some("ann")) && !stays(Some("cleo")) && !stays(None));
        assert!(new.has(Some("ann")) && !new.has(Some("cleo")) && !new.has(None));
    }
}
