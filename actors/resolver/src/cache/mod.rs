//! Answers that are kept: wire messages with the places of their TTLs, found by question.

mod key;
pub(crate) mod lru;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(crate) use key::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::wire::{Query, Reply};
use lru::Lru;

/// The reference raises smaller capacities to this.
const LEAST_CAPACITY: usize = 1024;
/// Bytes for each answer that may be kept; most take a tenth of it.
const BYTES_EACH: usize = 2048;
/// TTL of an answer that is told after its time, in seconds (RFC 8767 §4 suggests 30).
const STALE_TTL: u32 = 30;

/// What an answer came from: hashes of the `dns` section, and of the server's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) section: u64,
    pub(crate) server: u64,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Entry {
    reply: Arc<Reply>,
    expires: Instant,
    origin: Origin,
    refreshing: AtomicBool,
}

/// How answers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Number of answers; at least [`LEAST_CAPACITY`].
    pub(crate) capacity: u32,
    /// Answers do not age.
    pub(crate) disable_expire: bool,
    /// How long after its time an answer may be told while a new one is fetched; zero for never.
    pub(crate) stale: Duration,
}

/// An answer found in the cache.
#[derive(Debug)]
pub(crate) struct Hit {
    entry: Arc<Entry>,
    /// What is left of its TTL, in seconds.
    pub(crate) ttl: u32,
    stale: bool,
}

impl Hit {
    pub(crate) fn reply(&self) -> &Reply {
        &self.entry.reply
    }

    pub(crate) fn shared(&self) -> Arc<Reply> {
        self.entry.reply.clone()
    }

    /// Whether it is told after its time, and this asker is the one to fetch a new one.
    pub(crate) fn must_refresh(&self) -> bool {
        self.stale && !self.entry.refreshing.swap(true, Ordering::Relaxed)
    }

    /// Lets the next asker try again.
    pub(crate) fn refreshed(&self) {
        self.entry.refreshing.store(false, Ordering::Relaxed);
    }

    /// Whether its time is over.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Appends the answer for `query`.
    pub(crate) fn render(&self, query: &Query<'_>, out: &mut Vec<u8>) {
        self.entry.reply.render(query, self.ttl, out);
    }
}

/// The cache. Shards keep askers out of each other's way.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Box<[Mutex<Lru<Arc<Entry>>>]>,
    hasher: RandomState,
    policy: Policy,
}

impl Cache {
    pub(crate) fn new(policy: Policy) -> Self {
        let capacity = (policy.capacity as usize).max(LEAST_CAPACITY);
        let count = if capacity < 4 * LEAST_CAPACITY { 4 } else { 16 };
        let each = capacity.div_ceil(count);
        let shards =
            (0..count).map(|_| Mutex::new(Lru::new(each, each.saturating_mul(BYTES_EACH))));
        Self { shards: shards.collect(), hasher: RandomState::new(), policy }
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Lru<Arc<Entry>>>> {
        // The table within a shard uses the other bits. The number of shards is a power of two.
        self.shards.get((hash >> 48) as usize & (self.shards.len() - 1))
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The answer of a key, if its time is not over.
    pub(crate) fn get(&self, key: &Key) -> Option<Hit> {
        let key = key.as_bytes();
        let hash = self.hash(key);
        let shard = self.shard(hash)?;
        let mut shard = shard.lock();
        let entry = shard.get(hash, key)?.clone();
        if self.policy.disable_expire {
            let ttl = entry.reply.ttl();
            return Some(Hit { entry, ttl, stale: false });
        }
        let now = Instant::now();
        if let Some(left) = entry.expires.checked_duration_since(now) {
            drop(shard);
            // As in the reference: whole seconds, 0 in the last one.
            let ttl = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
            return Some(Hit { entry, ttl, stale: false });
        }
        if now.duration_since(entry.expires) < self.policy.stale {
            drop(shard);
            return Some(Hit { entry, ttl: STALE_TTL, stale: true });
        }
        shard.remove(hash, key);
        None
    }

    /// Keeps an answer for `ttl` seconds from now; none at all for 0.
    pub(crate) fn put(&self, key: &[u8], reply: Arc<Reply>, ttl: u32, origin: Origin) {
        let expires = Instant::now().checked_add(Duration::from_secs(ttl.into()));
        let (Some(expires), true) = (expires, ttl > 0) else { return };
        let entry = Entry { reply, expires, origin, refreshing: AtomicBool::new(false) };
        self.insert(key, Arc::new(entry));
    }

    fn insert(&self, key: &[u8], entry: Arc<Entry>) {
        let hash = self.hash(key);
        let Some(shard) = self.shard(hash) else { return };
        shard.lock().put(hash, key, entry.reply.weight(), entry);
    }

    pub(crate) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Takes over what another cache has from the same origins.
    pub(crate) fn adopt(&self, other: &Self, same: impl Fn(Origin) -> bool) {
        for shard in &other.shards {
            let kept: Vec<(Box<[u8]>, Arc<Entry>)> = {
                let shard = shard.lock();
                let all = shard.iter().filter(|(_, _, entry)| same(entry.origin));
                all.map(|(_, key, entry)| (key.into(), entry.clone())).collect()
            };
            // The one used last goes in last.
            for (key, entry) in kept.into_iter().rev() {
                self.insert(&key, entry);
            }
        }
    }
}
