//! Who waits for which answer on one socket or connection.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use atomic_waker::AtomicWaker;
use crosspoint_kernel::resolve::ExchangeError;
use parking_lot::Mutex;

use super::wire::{self, Asked};

/// Queries that may wait on one socket or connection: more would make ids easy to guess and slow to find.
pub(crate) const MOST: usize = 8192;

/// Spaces for questions that are kept for later queries.
const SPARE: usize = 64;

/// Why a query is still without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// What happened.
    pub(crate) error: ExchangeError,
    /// The connection is of no use any more; else the query may be sent again.
    pub(crate) closed: bool,
}

/// Why a query was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The connection is of no use any more.
    Closed,
    /// Too many queries wait.
    Full,
    /// It is no query.
    Malformed,
}

/// The queries that wait on one socket or connection, by id.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Mutex<Table>,
    waiting: AtomicUsize,
    /// Wakes the task that owns the socket: there is something to send, or nothing to wait for any more.
    pub(crate) driver: AtomicWaker,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u16, Slot, BuildHasherDefault<IdHasher>>,
    spare: Vec<Asked>,
    /// No new queries are expected: closes with the last answer.
    retired: bool,
    closed: Option<Lost>,
}

struct Slot {
    asked: Asked,
    /// The id that the asker knows.
    outer: u16,
    outcome: Option<Result<Vec<u8>, Lost>>,
    waker: Option<Waker>,
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

impl Waiters {
    /// Queries that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a query in and gives it an id that nobody can foresee.
    pub(crate) fn enter(self: &Arc<Self>, query: &[u8]) -> Result<Ticket, Refused> {
        let mut table = self.table.lock();
        if table.closed.is_some() {
            return Err(Refused::Closed);
        }
        if table.slots.len() >= MOST {
            return Err(Refused::Full);
        }
        let mut asked = table.spare.pop().unwrap_or_default();
        if !asked.note(query) {
            return Err(Refused::Malformed);
        }
        let slot = Slot { asked, outer: wire::id(query), outcome: None, waker: None };
        // One try in eight is in vain when the table is full.
        let id = loop {
            let random = random();
            let ids = [random, random >> 16, random >> 32, random >> 48].map(|id| id as u16);
            if let Some(id) = ids.into_iter().find(|id| !table.slots.contains_key(id)) {
                break id;
            }
        };
        table.slots.insert(id, slot);
        self.waiting.store(table.slots.len(), Ordering::Relaxed);
        Ok(Ticket { waiters: self.clone(), id })
    }

    /// Hands a message to who waits for it; returns whether anybody does. Whatever matches no query, by id and
    /// question, is of a stranger, or late.
    pub(crate) fn deliver(&self, message: &[u8]) -> bool {
        if message.len() < wire::HEADER {
            return false;
        }
        let waker = {
            let mut table = self.table.lock();
            let Some(slot) = table.slots.get_mut(&wire::id(message)) else { return false };
            if matches!(slot.outcome, Some(Ok(_))) || !slot.asked.is_answered_by(message) {
                return false;
            }
            let mut answer = message.to_vec();
            wire::set_id(&mut answer, slot.outer);
            slot.outcome = Some(Ok(answer));
            slot.waker.take()
        };
        waker.inspect(Waker::wake_by_ref);
        true
    }

    /// Tells everybody that their packet may not have arrived.
    pub(crate) fn nudge(&self, error: &ExchangeError) {
        self.tell(&Lost { error: error.clone(), closed: false });
    }

    /// Takes no more queries and gives up those that wait.
    pub(crate) fn close(&self, error: ExchangeError) {
        let lost = Lost { error, closed: true };
        self.table.lock().closed.get_or_insert_with(|| lost.clone());
        self.tell(&lost);
        self.driver.wake();
    }

    fn tell(&self, lost: &Lost) {
        let wakers: Vec<Waker> = {
            let mut table = self.table.lock();
            let slots = table.slots.values_mut().filter(|slot| slot.outcome.is_none());
            slots
                .filter_map(|slot| {
                    slot.outcome = Some(Err(lost.clone()));
                    slot.waker.take()
                })
                .collect()
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Closes once nobody waits any more.
    pub(crate) fn retire(&self) {
        let mut table = self.table.lock();
        table.retired = true;
        if table.slots.is_empty() {
            table.close_quietly();
            drop(table);
            self.driver.wake();
        }
    }

    /// Closes if nobody waits; returns whether it is closed.
    pub(crate) fn close_if_idle(&self) -> bool {
        let mut table = self.table.lock();
        if table.slots.is_empty() {
            table.close_quietly();
        }
        table.closed.is_some()
    }

    /// Whether it takes no more queries.
    pub(crate) fn is_closed(&self) -> bool {
        self.table.lock().closed.is_some()
    }
}

impl Table {
    fn close_quietly(&mut self) {
        let error = ExchangeError::failed("connection closed");
        self.closed.get_or_insert(Lost { error, closed: true });
    }
}

/// Gives up whoever waits when the task that owns the socket ends, in whatever way.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Waiters>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(ExchangeError::failed("connection closed"));
    }
}

/// The right to one answer. Dropping it gives up.
pub(crate) struct Ticket {
    waiters: Arc<Waiters>,
    id: u16,
}

impl Ticket {
    /// The id to send the query with.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// The answer, with the id that the asker knows. After a loss that left the connection open it may still come.
    pub(crate) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, Lost>> {
        let mut table = self.waiters.table.lock();
        let Table { slots, closed, .. } = &mut *table;
        let Some(slot) = slots.get_mut(&self.id) else {
            let error = ExchangeError::failed("connection closed");
            return Poll::Ready(Err(Lost { error, closed: true }));
        };
        if let Some(outcome) = slot.outcome.take() {
            return Poll::Ready(outcome);
        }
        if let Some(lost) = closed {
            return Poll::Ready(Err(lost.clone()));
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.waiters.table.lock();
        if let Entry::Occupied(slot) = table.slots.entry(self.id) {
            let asked = slot.remove().asked;
            if table.spare.len() < SPARE {
                table.spare.push(asked);
            }
        }
        self.waiters.waiting.store(table.slots.len(), Ordering::Relaxed);
        if table.retired && table.slots.is_empty() {
            table.close_quietly();
            drop(table);
            self.waiters.driver.wake();
        }
    }
}

/// 64 bits that nobody outside can foresee: a keyed hash (SipHash) of a counter.
fn random() -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEY.get_or_init(RandomState::new).hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Ids are random already; they only need to be spread over the word. Only our own are ever stored.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u16(u16::from(*byte)));
    }

    fn write_u16(&mut self, id: u16) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";

    fn answer(id: u16) -> Vec<u8> {
        let mut answer = QUERY.to_vec();
        wire::set_id(&mut answer, id);
        answer[2] |= 0x80;
        answer
    }

    fn poll(ticket: &Ticket) -> Poll<Result<Vec<u8>, Lost>> {
        ticket.poll_answer(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn answers_find_their_queries() {
        let waiters = Arc::new(Waiters::default());
        let (a, b) = (waiters.enter(QUERY).unwrap(), waiters.enter(QUERY).unwrap());
        assert_ne!(a.id(), b.id());
        assert!(!waiters.deliver(&answer(a.id().wrapping_add(1)).split_off(1)));
        assert!(waiters.deliver(&answer(b.id())));
        assert!(!waiters.deliver(&answer(b.id())), "a second answer is nobody's");
        assert!(poll(&a).is_pending());
        let got = poll_fn(|cx| b.poll_answer(cx)).await.unwrap();
        assert_eq!(wire::id(&got), 0x1234, "the asker's id is back");
        let id = a.id();
        drop(a);
        assert!(!waiters.deliver(&answer(id)), "who gave up waits no more");
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn a_wrong_answer_does_not_keep_the_right_one_out() {
        let waiters = Arc::new(Waiters::default());
        let ticket = waiters.enter(QUERY).unwrap();
        let mut wrong = answer(ticket.id());
        wrong[13] = b'b';
        assert!(!waiters.deliver(&wrong));
        assert!(waiters.deliver(&answer(ticket.id())));
        assert!(matches!(poll(&ticket), Poll::Ready(Ok(_))));
    }

    #[test]
    fn a_nudge_is_no_end_and_a_close_is() {
        let waiters = Arc::new(Waiters::default());
        let ticket = waiters.enter(QUERY).unwrap();
        waiters.nudge(&ExchangeError::failed("refused"));
        assert!(matches!(poll(&ticket), Poll::Ready(Err(Lost { closed: false, .. }))));
        assert!(poll(&ticket).is_pending());
        waiters.nudge(&ExchangeError::failed("refused"));
        assert!(waiters.deliver(&answer(ticket.id())), "an answer beats a nudge");
        assert!(matches!(poll(&ticket), Poll::Ready(Ok(_))));
        let other = waiters.enter(QUERY).unwrap();
        waiters.close(ExchangeError::failed("gone"));
        for _ in 0..2 {
            assert!(matches!(poll(&other), Poll::Ready(Err(Lost { closed: true, .. }))));
        }
        assert!(matches!(waiters.enter(QUERY), Err(Refused::Closed)));
    }

    #[test]
    fn the_last_one_closes_what_is_retired() {
        let waiters = Arc::new(Waiters::default());
        let ticket = waiters.enter(QUERY).unwrap();
        waiters.retire();
        assert!(!waiters.is_closed() && !waiters.close_if_idle());
        drop(ticket);
        assert!(waiters.is_closed());
    }

    #[test]
    fn the_table_is_bounded() {
        let waiters = Arc::new(Waiters::default());
        let tickets: Vec<_> = (0..MOST).map(|_| waiters.enter(QUERY).unwrap()).collect();
        assert!(matches!(waiters.enter(QUERY), Err(Refused::Full)));
        assert!(matches!(waiters.enter(b"no query"), Err(Refused::Full)));
        drop(tickets);
        assert!(matches!(waiters.enter(b"no query"), Err(Refused::Malformed)));
        assert_eq!(waiters.len(), 0);
    }
}
