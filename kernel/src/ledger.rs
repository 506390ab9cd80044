//! The ledger of live connections: what `ctl connections` lists and what a revoked user, a removed
//! component or an operator ends. It survives every component.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;

use crate::{
    Kind, Tag,
    addr::Target,
    component::Incarnation,
    session::{Network, Session},
    users::{Roll, Rolls, Tally},
};

/// Connections at once that count as a burst: a few megabytes of memory.
const BURST: usize = 512;

/// Why a connection was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// An operator closed it.
    Operator = 1,
    /// Its user was removed or changed.
    Revoked = 2,
    /// Its inbound or outbound left the configuration and the drain deadline passed.
    Removed = 3,
    /// The group it went through chose another member.
    Switched = 4,
    /// The daemon stops.
    Shutdown = 5,
}

impl Cut {
    /// The reason in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "closed by operator",
            Self::Revoked => "user revoked",
            Self::Removed => "component removed",
            Self::Switched => "group switched",
            Self::Shutdown => "shutting down",
        }
    }

    fn from_u8(value: u8) -> Option<Self> {
        [Self::Operator, Self::Revoked, Self::Removed, Self::Switched, Self::Shutdown]
            .into_iter()
            .find(|cut| *cut as u8 == value)
    }
}

/// One live connection.
pub struct Entry {
    /// Number of the connection.
    pub id: u64,
    /// Stream or datagrams.
    pub network: Network,
    /// The client.
    pub source: SocketAddr,
    /// The destination as routed.
    pub target: Target,
    /// The user.
    pub user: Option<Arc<str>>,
    /// The instance that accepted it.
    pub inbound: Arc<Incarnation>,
    /// When it was accepted.
    pub started: Instant,
    /// Payload bytes from the client.
    pub up: AtomicU64,
    /// Payload bytes to the client.
    pub down: AtomicU64,
    /// Payload bytes of both directions that were moved by splice.
    pub spliced: AtomicU64,
    /// Datagrams from the client.
    pub up_packets: AtomicU64,
    /// Datagrams to the client.
    pub down_packets: AtomicU64,
    hops: Mutex<Vec<Arc<Incarnation>>>,
    cut: AtomicU8,
    waker: AtomicWaker,
    /// Where it counts for its user, if users of its inbound are managed.
    tally: Option<Box<Tally>>,
}

impl Entry {
    /// Records that the connection goes through that instance.
    pub fn push_hop(&self, life: Arc<Incarnation>) {
        self.hops.lock().push(life);
    }

    /// The instances it goes through, outermost first (a group before its member).
    pub fn hops(&self) -> Vec<Arc<Incarnation>> {
        self.hops.lock().clone()
    }

    /// Whether it goes through an instance for which `f` says so.
    pub fn passes(&self, f: impl Fn(&Incarnation) -> bool) -> bool {
        self.hops.lock().iter().any(|life| f(life))
    }

    /// Ends the connection.
    pub fn cut(&self, why: Cut) {
        self.cut.store(why as u8, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when the connection was cut. One task polls it.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Some(cut) = self.is_cut() {
            return Poll::Ready(cut);
        }
        self.waker.register(cx.waker());
        self.is_cut().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether it was cut, without waiting.
    pub fn is_cut(&self) -> Option<Cut> {
        Cut::from_u8(self.cut.load(Ordering::Acquire))
    }
}

/// All live connections.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Shared>);

/// Whether flows of a user may live on.
type Keeps = Arc<dyn Fn(Option<&str>) -> bool + Send + Sync>;

/// The instance in force of an inbound with users.
struct Heir {
    epoch: u64,
    keeps: Keeps,
}

#[derive(Default)]
struct Shared {
    rolls: Rolls,
    /// By the tag of the inbound.
    heirs: Mutex<HashMap<Tag, Heir>>,
    ids: AtomicU64,
    live: Mutex<Slab<Arc<Entry>>>,
    /// Most connections at once since memory was last given back.
    peak: AtomicUsize,
    total_up: AtomicU64,
    total_down: AtomicU64,
}

/// Keeps a connection in the ledger; dropping it takes the connection out.
pub struct Registered {
    shared: Arc<Shared>,
    key: usize,
    entry: Arc<Entry>,
}

impl std::ops::Deref for Registered {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = self.shared.live.lock();
        live.remove(self.key);
        // Give memory back after a burst: a slab never shrinks by itself.
        if live.is_empty() && live.capacity() > 1024 {
            live.shrink_to_fit();
        }
        drop(live);
        if let Some(tally) = &self.entry.tally {
            tally.settle(&self.entry);
        }
        self.shared.total_up.fetch_add(self.entry.up.load(Ordering::Relaxed), Ordering::Relaxed);
        self.shared
            .total_down
            .fetch_add(self.entry.down.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Ledger {
    /// A ledger that counts for those rolls.
    pub fn new(rolls: Rolls) -> Self {
        Self(Arc::new(Shared { rolls, ..Shared::default() }))
    }

    /// A number for a new connection.
    pub fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// From now on `me` says which users of its inbound may have flows: those of all others end, also such as an instance
    /// before it has let in and enters later, because a handshake was under way.
    pub fn inherit(
        &self,
        me: &Incarnation,
        keeps: impl Fn(Option<&str>) -> bool + Send + Sync + 'static,
    ) -> usize {
        let keeps: Keeps = Arc::new(keeps);
        let heir = Heir { epoch: me.epoch, keeps: keeps.clone() };
        // In this order: a connection that is entered meanwhile is found by one or the other.
        self.0.heirs.lock().insert(me.tag.clone(), heir);
        self.cut_where(Cut::Revoked, |entry| {
            entry.inbound.kind == me.kind
                && entry.inbound.tag == me.tag
                && !keeps(entry.user.as_deref())
        })
    }

    /// Whether a connection's user was revoked before it was entered.
    fn is_late(&self, session: &Session) -> bool {
        let user = session.user.as_deref();
        if session.standing.as_ref().is_some_and(|standing| !standing.holds(user)) {
            return true;
        }
        let inbound = &session.inbound;
        if inbound.kind != Kind::Inbound {
            return false;
        }
        let heir = {
            let heirs = self.0.heirs.lock();
            let heir = heirs.get(&inbound.tag).filter(|heir| heir.epoch != inbound.epoch);
            heir.map(|heir| heir.keeps.clone())
        };
        heir.is_some_and(|keeps| !keeps(user))
    }

    /// Enters a connection. It is cut at once if its user was revoked meanwhile.
    pub fn register(&self, session: &Session) -> Registered {
        let roll = self.0.rolls.get(&session.inbound.tag);
        let entry = Arc::new(Entry {
            id: session.id,
            network: session.network,
            source: session.source,
            target: session.target.clone(),
            user: session.user.clone(),
            inbound: session.inbound.clone(),
            started: session.started,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            spliced: AtomicU64::new(0),
            up_packets: AtomicU64::new(0),
            down_packets: AtomicU64::new(0),
            hops: Mutex::new(Vec::new()),
            cut: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            tally: roll.filter(|_| session.inbound.kind == Kind::Inbound).map(Tally::new),
        });
        let mut live = self.0.live.lock();
        let key = live.insert(entry.clone());
        if live.len() > self.0.peak.load(Ordering::Relaxed) {
            self.0.peak.store(live.len(), Ordering::Relaxed);
        }
        drop(live);
        // Who sees it counted must find it to cut.
        if let Some(tally) = &entry.tally {
            tally.begin(&entry);
        }
        if self.is_late(session) {
            entry.cut(Cut::Revoked);
        }
        Registered { shared: self.0.clone(), key, entry }
    }

    /// Whether a burst of connections has passed, so that it is worth asking the allocator for the
    /// memory that it keeps. Says so once per burst.
    pub fn burst_has_passed(&self) -> bool {
        let live = self.len();
        let peak = self.0.peak.load(Ordering::Relaxed);
        let passed = peak >= BURST && live * 4 < peak;
        if passed {
            self.0.peak.store(live, Ordering::Relaxed);
        }
        passed
    }

    /// Number of live connections.
    pub fn len(&self) -> usize {
        self.0.live.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All live connections at this moment.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        self.0.live.lock().iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// Ends every connection for which `f` says so, and returns how many.
    pub fn cut_where(&self, why: Cut, f: impl Fn(&Entry) -> bool) -> usize {
        let hit: Vec<_> = self.list().into_iter().filter(|entry| f(entry)).collect();
        hit.iter().for_each(|entry| entry.cut(why));
        hit.len()
    }

    /// Tells a roll what the live connections of its inbound have moved so far.
    pub fn settle(&self, roll: &Arc<Roll>) {
        let live = self.0.live.lock();
        for (_, entry) in live.iter() {
            if let Some(tally) = entry.tally.as_ref().filter(|tally| tally.is_in(roll)) {
                tally.settle(entry);
            }
        }
    }

    /// Payload bytes from and to clients since start, ended connections included.
    pub fn totals(&self) -> (u64, u64) {
        let (mut up, mut down) =
            (self.0.total_up.load(Ordering::Relaxed), self.0.total_down.load(Ordering::Relaxed));
        for entry in self.list() {
            up += entry.up.load(Ordering::Relaxed);
            down += entry.down.load(Ordering::Relaxed);
        }
        (up, down)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::session::Standing;

    #[derive(Debug, Default)]
    struct Known(AtomicBool);

    impl Standing for Known {
        fn holds(&self, user: Option<&str>) -> bool {
            user.is_some() && self.0.load(Ordering::Relaxed)
        }
    }

    fn inbound(epoch: u64) -> Arc<Incarnation> {
        let (kind, type_name, tag) = (Kind::Inbound, "test", "in".into());
        Arc::new(Incarnation { kind, type_name, tag, epoch })
    }

    fn session(epoch: u64, user: &str) -> Box<Session> {
        let source = ([127, 0, 0, 1], 9).into();
        let target = Target::new("a.test", 80);
        let mut session = Session::new(1, inbound(epoch), Network::Tcp, source, target);
        session.user = Some(user.into());
        session
    }

    #[test]
    fn who_was_revoked_on_the_way_is_cut_when_entered() {
        let (ledger, known) = (Ledger::default(), Arc::new(Known::default()));
        let mut late = session(1, "ann");
        late.standing = Some(known.clone());
        assert_eq!(ledger.register(&late).is_cut(), Some(Cut::Revoked));
        known.0.store(true, Ordering::Relaxed);
        assert_eq!(ledger.register(&late).is_cut(), None);
    }

    #[test]
    fn a_later_instance_says_who_of_an_earlier_one_stays() {
        let ledger = Ledger::default();
        let (ann, bob) = (ledger.register(&session(1, "ann")), ledger.register(&session(1, "bob")));
        assert_eq!(ledger.inherit(&inbound(2), |user| user == Some("ann")), 1);
        assert_eq!((ann.is_cut(), bob.is_cut()), (None, Some(Cut::Revoked)));
        // Handshakes that were under way in the one before.
        let late = |epoch, user| ledger.register(&session(epoch, user)).is_cut();
        assert_eq!(late(1, "ann"), None);
        assert_eq!(late(1, "bob"), Some(Cut::Revoked));
        // The instance itself checks whom it lets in.
        assert_eq!(late(2, "bob"), None);
    }
}
