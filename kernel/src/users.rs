//! Users of inbounds that come and go while the inbound runs (service `ssm-api`), and what they move.
//!
//! A [`Roll`] belongs to the tag of an inbound and outlives the inbound and whoever manages it: a restarted inbound finds
//! its users there, a restarted service what was counted. Changes go to the inbound by message
//! ([`ManagedUsers::set`]); one that is not up reads the roll when it starts.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use crosspoint_schema::decode::Secret;
use parking_lot::Mutex;

use crate::{BoxFuture, Tag, ledger::Entry, session::Network};

/// A user that is managed from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name in logs and rules, unique among the users of an inbound.
    pub name: Arc<str>,
    /// What the user proves itself with: a password, a key or a UUID, as the protocol has it.
    pub secret: Secret,
}

/// Why users were not taken. Those before are still in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// The inbound cannot have such a user.
    #[error("{0}")]
    Invalid(String),
    /// The inbound is not up.
    #[error("{0}")]
    Down(String),
}

/// Takes users by message: the face of an inbound whose [`Control`](crate::component::Control) does.
pub trait ManagedUsers: Send + Sync + 'static {
    /// Puts `users` in force in place of all managed ones before, and notes them in the roll. Flows of those that are
    /// gone or have another secret end, nobody else's. `fresh`, if given, is checked first; the others have been before.
    ///
    /// # Errors
    /// [`UsersError`]; nothing has changed then.
    fn set(&self, users: Arc<[User]>, fresh: Option<User>)
    -> BoxFuture<'_, Result<(), UsersError>>;
}

/// What was moved, from the client's side. Connections count when they begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes from the client.
    pub up: u64,
    /// Payload bytes to the client.
    pub down: u64,
    /// Datagrams from the client.
    pub up_packets: u64,
    /// Datagrams to the client.
    pub down_packets: u64,
    /// Streams.
    pub tcp: u64,
    /// Datagram associations.
    pub udp: u64,
}

impl Traffic {
    fn add(&mut self, more: &Self) {
        self.up += more.up;
        self.down += more.down;
        self.up_packets += more.up_packets;
        self.down_packets += more.down_packets;
        self.tcp += more.tcp;
        self.udp += more.udp;
    }
}

/// What all users of an inbound moved, and each managed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Everybody, configured users and former ones included.
    pub all: Traffic,
    /// Managed users that have moved something.
    pub users: HashMap<Arc<str>, Traffic>,
}

/// The managed users of one inbound.
#[derive(Debug, Default)]
pub struct Roll {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    users: Arc<[User]>,
    sums: Sums,
    /// Whether somebody has filled it since the process began.
    filled: bool,
}

impl Roll {
    /// The users.
    pub fn users(&self) -> Arc<[User]> {
        self.known.lock().users.clone()
    }

    /// Notes users, without telling the inbound. What the gone ones moved counts for all from now on.
    pub fn put(&self, users: &[User]) {
        let names: HashSet<&str> = users.iter().map(|user| &*user.name).collect();
        let mut known = self.known.lock();
        known.users = users.into();
        known.sums.users.retain(|name, _| names.contains(&**name));
        known.filled = true;
    }

    /// Fills a roll that nobody has filled yet with what another process has known. Returns whether it did.
    pub fn restore(&self, users: &[User], sums: Sums) -> bool {
        let mut known = self.known.lock();
        if std::mem::replace(&mut known.filled, true) {
            return false;
        }
        known.users = users.into();
        // What came in before counts as well.
        known.sums.all.add(&sums.all);
        for (name, traffic) in sums.users {
            known.sums.users.entry(name).or_default().add(&traffic);
        }
        true
    }

    /// What was moved so far; with `clear`, counting begins anew. Live connections are told to the roll by
    /// [`Ledger::settle`](crate::ledger::Ledger::settle), which comes before.
    pub fn sums(&self, clear: bool) -> Sums {
        let mut known = self.known.lock();
        if clear { std::mem::take(&mut known.sums) } else { known.sums.clone() }
    }

    /// What one user moved so far.
    pub fn traffic(&self, user: &str) -> Traffic {
        self.known.lock().sums.users.get(user).copied().unwrap_or_default()
    }

    fn note(&self, entry: &Entry, more: impl FnOnce() -> Traffic) {
        let mut known = self.known.lock();
        let Known { users, sums, .. } = &mut *known;
        // Under the lock: the same bytes must not be told twice.
        let more = more();
        if more == Traffic::default() {
            return;
        }
        sums.all.add(&more);
        let Some(name) = &entry.user else { return };
        if let Some(sum) = sums.users.get_mut(name) {
            sum.add(&more);
        } else if users.iter().any(|user| user.name == *name) {
            sums.users.insert(name.clone(), more);
        }
    }
}

/// What of a live connection is in its inbound's roll already.
pub(crate) struct Tally {
    roll: Arc<Roll>,
    told: [AtomicU64; 4],
}

impl Tally {
    /// A connection that begins.
    pub(crate) fn new(roll: Arc<Roll>) -> Box<Self> {
        Box::new(Self { roll, told: Default::default() })
    }

    /// Counts the connection itself.
    pub(crate) fn begin(&self, entry: &Entry) {
        let (tcp, udp) = match entry.network {
            Network::Tcp => (1, 0),
            Network::Udp => (0, 1),
        };
        self.roll.note(entry, || Traffic { tcp, udp, ..Traffic::default() });
    }

    /// Whether the connection counts there.
    pub(crate) fn is_in(&self, roll: &Arc<Roll>) -> bool {
        Arc::ptr_eq(&self.roll, roll)
    }

    /// Tells the roll what it does not know yet.
    pub(crate) fn settle(&self, entry: &Entry) {
        self.roll.note(entry, || {
            let now = [&entry.up, &entry.down, &entry.up_packets, &entry.down_packets];
            let mut more = [0; 4];
            for ((more, now), told) in more.iter_mut().zip(now).zip(&self.told) {
                let now = now.load(Relaxed);
                *more = now.saturating_sub(told.swap(now, Relaxed));
            }
            let [up, down, up_packets, down_packets] = more;
            Traffic { up, down, up_packets, down_packets, ..Traffic::default() }
        });
    }
}

/// Every roll, by the tag of its inbound.
#[derive(Clone, Debug, Default)]
pub struct Rolls(Arc<ArcSwap<HashMap<Tag, Arc<Roll>>>>);

impl Rolls {
    /// The roll of an inbound, if its users are managed.
    pub fn get(&self, inbound: &str) -> Option<Arc<Roll>> {
        // For every connection: almost always there is none at all.
        let rolls = self.0.load();
        if rolls.is_empty() { None } else { rolls.get(inbound).cloned() }
    }

    /// The roll of an inbound; an empty one if there is none yet.
    pub fn open(&self, inbound: &str) -> Arc<Roll> {
        self.0.rcu(|rolls| {
            let mut rolls = HashMap::clone(rolls);
            rolls.entry(inbound.into()).or_default();
            rolls
        });
        self.get(inbound).unwrap_or_default()
    }

    /// Throws away the rolls of inbounds that nobody manages any more, and says which.
    pub fn retain(&self, managed: impl Fn(&Tag) -> bool) -> Vec<Tag> {
        let gone: Vec<Tag> = self.0.load().keys().filter(|tag| !managed(tag)).cloned().collect();
        if !gone.is_empty() {
            self.0.rcu(|rolls| {
                let mut rolls = HashMap::clone(rolls);
                rolls.retain(|tag, _| !gone.contains(tag));
                rolls
            });
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, addr::Target, component::Incarnation, ledger::Ledger, session::Session};

    fn users(names: &[&str]) -> Vec<User> {
        names.iter().map(|name| User { name: (*name).into(), secret: Secret::new("x") }).collect()
    }

    fn session(user: &str, network: Network) -> Box<Session> {
        let inbound = Arc::new(Incarnation {
            kind: Kind::Inbound,
            type_name: "test",
            tag: "in".into(),
            epoch: 1,
        });
        let source = ([127, 0, 0, 1], 9).into();
        let mut session = Session::new(1, inbound, network, source, Target::new("a.test", 80));
        session.user = Some(user.into());
        session
    }

    #[test]
    fn bytes_are_counted_once_while_a_connection_lives_and_after() {
        let rolls = Rolls::default();
        let ledger = Ledger::new(rolls.clone());
        let roll = rolls.open("in");
        roll.put(&users(&["ann"]));
        let flow = ledger.register(&session("ann", Network::Tcp));
        let packets = ledger.register(&session("guest", Network::Udp));
        flow.up.store(10, Relaxed);
        flow.down.store(100, Relaxed);
        packets.up.store(7, Relaxed);
        packets.up_packets.store(1, Relaxed);
        for _ in 0..2 {
            ledger.settle(&roll);
            let ann = Traffic { up: 10, down: 100, tcp: 1, ..Traffic::default() };
            assert_eq!(roll.traffic("ann"), ann);
            let all = Traffic { up: 17, up_packets: 1, udp: 1, ..ann };
            assert_eq!(roll.sums(false).all, all);
        }
        assert_eq!(roll.sums(true).all.up, 17);
        flow.up.store(15, Relaxed);
        drop((flow, packets));
        let all = Traffic { up: 5, ..Traffic::default() };
        assert_eq!(roll.sums(false).all, all);
        assert_eq!(roll.traffic("ann"), all);
        // Who is gone is forgotten, who comes anew begins at nothing.
        roll.put(&users(&[]));
        assert!(roll.sums(false).users.is_empty());
        assert_eq!(roll.sums(false).all, all);
        assert_eq!(roll.traffic("guest"), Traffic::default());
    }

    #[test]
    fn only_a_fresh_roll_is_restored() {
        let rolls = Rolls::default();
        let roll = rolls.open("in");
        let sums = Sums {
            all: Traffic { up: 3, ..Traffic::default() },
            users: HashMap::from([("ann".into(), Traffic { up: 2, ..Traffic::default() })]),
        };
        assert!(roll.restore(&users(&["ann"]), sums.clone()));
        assert!(!rolls.open("in").restore(&users(&["bob"]), sums.clone()));
        assert_eq!(*roll.users(), users(&["ann"]));
        assert_eq!(roll.sums(false), sums);
        assert_eq!(rolls.retain(|_| false), ["in".into()]);
        assert!(rolls.get("in").is_none());
    }
}
