//! Who is where: written by the actor of a server, read by every connection for every packet.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{
    frame::{FromServer, flags},
    key::Key,
    mailbox::{Limit, Mailbox},
};

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;

/// One connection of a client.
pub struct Peer {
    /// Its key.
    pub key: Key,
    /// Its address.
    pub addr: SocketAddr,
    /// What is to be sent to it.
    pub mailbox: Arc<Mailbox>,
    /// It has the key of the region.
    pub trusted: bool,
    /// What it is, for other servers ([`flags`]).
    pub flags: u8,
    /// Packets for its key go to this connection.
    pub(crate) active: AtomicBool,
    /// The actor was told that it speaks although another connection of its key is active.
    pub(crate) spoke: AtomicBool,
}

impl Peer {
    pub(crate) fn new(key: Key, addr: SocketAddr, trusted: bool, flags: u8) -> Self {
        Self {
            key,
            addr,
            mailbox: Arc::default(),
            trusted,
            flags: if flags == 0 { flags::REGULAR } else { flags },
            active: AtomicBool::new(false),
            spoke: AtomicBool::new(false),
        }
    }

    /// Whether packets for its key go to this connection.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Tells another server that this client is there.
    pub(crate) fn present_to(&self, watcher: &Self) {
        let (key, addr, flags) = (self.key, Some(self.addr), self.flags);
        let frame = FromServer::PeerPresent { key, addr, flags };
        watcher.mailbox.control(Limit::Complete, |out| frame.emit(out));
    }
}

/// Where packets for a key go.
#[derive(Clone)]
pub enum Route {
    /// To a client of ours.
    Local(Arc<Peer>),
    /// To another server of the region.
    Via(Arc<Mailbox>),
}

/// What the actor and all connections of a server share.
pub struct Table {
    shards: [RwLock<HashMap<Key, Route>>; SHARDS],
    /// Counts the clients of other servers that have left the region.
    pub(crate) left: AtomicU64,
    /// Packets that came from clients and servers.
    pub(crate) packets: AtomicU64,
    /// Packets that were for nobody, or were lost because somebody was slow.
    pub(crate) dropped: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            left: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Table {
    fn shard(&self, key: &Key) -> &RwLock<HashMap<Key, Route>> {
        let [first, ..] = key.0;
        &self.shards[usize::from(first) % SHARDS]
    }

    /// Where packets for that key go.
    pub fn get(&self, key: &Key) -> Option<Route> {
        self.shard(key).read().get(key).cloned()
    }

    /// Puts a route in place, or takes it away.
    pub(crate) fn set(&self, key: &Key, route: Option<Route>) {
        let mut shard = self.shard(key).write();
        match route {
            Some(route) => drop(shard.insert(*key, route)),
            None => {
                shard.remove(key);
                if shard.is_empty() {
                    *shard = HashMap::new();
                }
            }
        }
    }

    /// How many keys can be reached.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Keys that somebody has sent to, as many as are worth remembering.
#[derive(Debug, Default)]
pub(crate) struct Known(HashSet<Key>);

impl Known {
    /// Most keys.
    const MOST: usize = 4096;

    pub(crate) fn insert(&mut self, key: Key) {
        if self.0.len() < Self::MOST {
            self.0.insert(key);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
        } else {
            other.0.into_iter().for_each(|key| self.insert(key));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}
