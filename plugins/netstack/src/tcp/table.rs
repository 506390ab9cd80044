//! All TCP flows of a stack.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use smoltcp::socket::tcp::State;
use tokio::time::Instant;

use super::{
    Head, Key, TcpStream,
    core::{Core, instant},
    merge, reset,
    timers::{NEVER, Timers},
};
use crate::{Link, Screen, packets::Packets};

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 64;
/// Connections that may be opening at a time: more are not answered, and come again.
const OPENING: usize = 1024;

thread_local! {
    /// Segments that were joined. No packet is larger than 64 KiB.
    static MERGED: RefCell<Vec<u8>> = RefCell::default();
}

/// A flow in the table.
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) core: Arc<Mutex<Core>>,
    /// When it is looked at next at the latest, in microseconds.
    scheduled: AtomicU64,
}

/// All flows of a stack.
pub(crate) struct Table {
    shards: Vec<RwLock<HashMap<Key, Arc<Flow>>>>,
    hasher: RandomState,
    timers: Timers,
    opening: AtomicUsize,
    start: Instant,
    mtu: usize,
    link: Arc<dyn Link>,
}

impl Table {
    pub(crate) fn new(mtu: usize, link: Arc<dyn Link>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            timers: Timers::new(),
            opening: AtomicUsize::new(0),
            start: Instant::now(),
            mtu,
            link,
        }
    }

    /// Flows that there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    fn shard(&self, key: &Key) -> &RwLock<HashMap<Key, Arc<Flow>>> {
        let hash = self.hasher.hash_one(key);
        // The map below takes other bits of the same hash.
        &self.shards[usize::try_from(hash >> 32).unwrap_or(0) % SHARDS]
    }

    fn get(&self, key: &Key) -> Option<Arc<Flow>> {
        self.shard(key).read().get(key).cloned()
    }

    /// Adds a flow. `None` if there is one with the same ends.
    fn add(&self, key: Key, core: Core) -> Option<Arc<Flow>> {
        let core = Arc::new(Mutex::new(core));
        let flow = Arc::new(Flow { key, core, scheduled: AtomicU64::new(NEVER) });
        let mut shard = self.shard(&key).write();
        match shard.entry(key) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(free) => Some(free.insert(flow).clone()),
        }
    }

    fn seed(&self, key: &Key) -> u64 {
        RandomState::new().hash_one(key)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes segments of one flow, of which `head` is the first one's. One that opens a connection makes a flow if
    /// `screen` agrees; one that belongs to none is answered. The stream of a connection that has just opened.
    pub(crate) fn take(
        self: &Arc<Self>,
        key: Key,
        head: &Head,
        packets: &[&[u8]],
        out: &mut Packets,
        screen: impl FnOnce() -> Screen,
    ) -> Option<TcpStream> {
        let flow = self.get(&key).or_else(|| self.accept(key, head, out, screen))?;
        let mut core = flow.core.lock();
        let now = instant(self.now());
        MERGED.with_borrow_mut(|merged| {
            let feed = |core: &mut Core, packet: &[u8]| core.feed(now, packet, out);
            merge::each(&mut *core, packets, merged, |core| core.acknowledged(), feed);
        });
        self.pump(&flow, &mut core, out);
        if core.open || !core.accepted || !core.socket().may_send() {
            return None;
        }
        self.opened(&mut core);
        drop(core);
        Some(TcpStream::new(self.clone(), flow))
    }

    /// A new flow for the segment that opens it.
    fn accept(
        &self,
        key: Key,
        head: &Head,
        out: &mut Packets,
        screen: impl FnOnce() -> Screen,
    ) -> Option<Arc<Flow>> {
        let verdict = match head.opens() {
            false => Screen::Reset,
            true if self.opening.load(Ordering::Relaxed) >= OPENING => Screen::Drop,
            true => screen(),
        };
        match verdict {
            Screen::Accept => {}
            Screen::Reset => {
                reset::emit(out, key, head, self.mtu);
                return None;
            }
            Screen::Drop => return None,
        }
        let flow = self.add(key, Core::listen(key, self.mtu, self.seed(&key))?)?;
        self.opening.fetch_add(1, Ordering::Relaxed);
        Some(flow)
    }

    fn opened(&self, core: &mut Core) {
        core.opened();
        self.opening.fetch_sub(1, Ordering::Relaxed);
    }

    /// The stream of a flow was dropped.
    pub(super) fn abandon(&self, flow: &Flow, out: &mut Packets) {
        let mut core = flow.core.lock();
        core.abandon(instant(self.now()));
        self.pump(flow, &mut core, out);
    }

    /// Sends what is due, sees when the flow wants to be looked at again, and takes it out when it is over.
    pub(super) fn pump(&self, flow: &Flow, core: &mut Core, out: &mut Packets) {
        let since = self.now();
        let now = instant(since);
        core.pump(now, out, |packets| self.link.send(packets));
        if core.gone {
            return;
        }
        if core.is_over(now) {
            core.gone = true;
            // One that never opened was counted as opening.
            if !core.open {
                core.open = true;
                self.opening.fetch_sub(1, Ordering::Relaxed);
            }
            self.shard(&flow.key).write().remove(&flow.key);
            return;
        }
        if let Some(due) = core.due(now) {
            let due = u64::try_from(due.total_micros()).unwrap_or(NEVER);
            if due < flow.scheduled.load(Ordering::Relaxed) {
                flow.scheduled.store(due, Ordering::Relaxed);
                self.timers.add(due, flow.key);
            }
        }
    }

    /// Opens a connection from `key.local`.
    ///
    /// # Errors
    /// The address is in use or of no use, or the peer refused or did not answer.
    pub(crate) async fn connect(self: &Arc<Self>, key: Key) -> io::Result<TcpStream> {
        let unusable = || io::Error::from(io::ErrorKind::AddrNotAvailable);
        let core = Core::connect(key, self.mtu, self.seed(&key)).ok_or_else(unusable)?;
        let flow = self.add(key, core).ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        self.opening.fetch_add(1, Ordering::Relaxed);
        // Dropped before it is open, it is closed.
        let stream = TcpStream::new(self.clone(), flow.clone());
        let mut out = Packets::new();
        self.pump(&flow, &mut flow.core.lock(), &mut out);
        std::future::poll_fn(|cx| {
            let mut core = flow.core.lock();
            if core.socket().may_send() {
                if !core.open {
                    self.opened(&mut core);
                }
                return Poll::Ready(Ok(()));
            }
            let socket = core.socket();
            match socket.state() {
                State::Closed => {
                    Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)))
                }
                _ => {
                    socket.register_send_waker(cx.waker());
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await?;
        Ok(stream)
    }

    /// Looks at flows when their time has come. Ends never.
    pub(crate) async fn run(&self) {
        let mut out = Packets::new();
        loop {
            let first = self.timers.first();
            let sleep = async {
                match first {
                    NEVER => std::future::pending().await,
                    at => tokio::time::sleep_until(self.start + Duration::from_micros(at)).await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.timers.earlier() => continue,
            }
            let now = u64::try_from(self.now().as_micros()).unwrap_or(NEVER);
            while let Some(key) = self.timers.take(now) {
                if let Some(flow) = self.get(&key) {
                    flow.scheduled.store(NEVER, Ordering::Relaxed);
                    self.pump(&flow, &mut flow.core.lock(), &mut out);
                }
            }
        }
    }
}
