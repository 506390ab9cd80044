//! One client of a shared socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::Nat;
use crate::{
    BoxFuture,
    addr::Target,
    flow::{Batch, PacketIo},
};

/// Packets that wait for a session's task.
const QUEUE: usize = 128;

/// Payload bytes that wait for a session's task, beside the first packet.
const QUEUE_BYTES: usize = 256 * 1024;

/// Stores kept for the next busy session.
const STORES: usize = 16;

/// Memory of a queue: payloads back to back, and where each goes.
#[derive(Default)]
struct Store {
    bytes: Vec<u8>,
    packets: Vec<(u32, Target)>,
    /// Packets taken, and where the next one begins.
    taken: usize,
    at: usize,
}

/// Empty stores. A store belongs to a session only while packets wait in it.
static POOL: Mutex<Vec<Store>> = Mutex::new(Vec::new());

#[derive(Default)]
struct Queue {
    store: Option<Store>,
    closed: bool,
}

/// What the receiving loop knows of a session.
pub(super) struct Shared {
    pub(super) source: SocketAddr,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    seen: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(source: SocketAddr, now: u64) -> Self {
        Self {
            source,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            seen: AtomicU64::new(now),
        }
    }

    /// When it last received or sent.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Queues a packet for the session; drops it when too many wait.
    pub(super) fn push(&self, payload: &[u8], target: Target, now: u64) {
        self.seen.store(now, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        let store = queue.store.get_or_insert_with(|| POOL.lock().pop().unwrap_or_default());
        if store.packets.len() >= QUEUE
            || !store.bytes.is_empty() && store.bytes.len() + payload.len() > QUEUE_BYTES
        {
            return;
        }
        store.bytes.extend_from_slice(payload);
        store.packets.push((store.bytes.len() as u32, target));
        drop(queue);
        self.waker.wake();
    }

    /// Ends the session.
    pub(super) fn close(&self) {
        let store = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.store.take()
        };
        store.into_iter().for_each(recycle);
        self.waker.wake();
    }
}

fn recycle(mut store: Store) {
    if store.bytes.capacity() > QUEUE_BYTES / 4 {
        return;
    }
    store.bytes.clear();
    store.packets.clear();
    (store.taken, store.at) = (0, 0);
    let mut pool = POOL.lock();
    if pool.len() < STORES {
        pool.push(store);
    }
}

/// A client's association on a shared socket.
pub(super) struct Session {
    nat: Arc<Nat>,
    shared: Arc<Shared>,
    /// The address of ours that the client knows.
    local: Option<IpAddr>,
    /// Waits for room in the socket. Made when there is none: many sessions wait for one socket, and
    /// its poll functions remember only one of them.
    writable: Option<BoxFuture<'static, io::Result<()>>>,
}

impl Session {
    pub(super) fn new(nat: Arc<Nat>, shared: Arc<Shared>, local: Option<IpAddr>) -> Self {
        Self { nat, shared, local, writable: None }
    }
}

impl PacketIo for Session {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            let why = "session was closed to make room";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        let Some(store) = &mut queue.store else {
            // Under the lock, so that no packet comes in between unseen.
            self.shared.waker.register(cx.waker());
            return Poll::Pending;
        };
        let mut added = 0;
        while let Some((end, target)) = store.packets.get_mut(store.taken) {
            let end = *end as usize;
            if batch.is_full() {
                break;
            }
            let target = std::mem::replace(target, Target::unspecified());
            added += usize::from(batch.push(&store.bytes[store.at..end], target));
            (store.taken, store.at) = (store.taken + 1, end);
        }
        if store.taken == store.packets.len() {
            let store = queue.store.take();
            drop(queue);
            store.into_iter().for_each(recycle);
        }
        Poll::Ready(Ok(added))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let (nat, shared) = (&self.nat, &self.shared);
        shared.seen.store(nat.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        loop {
            if let Some(writable) = &mut self.writable {
                let result = ready!(writable.as_mut().poll(cx));
                self.writable = None;
                result?;
            }
            let mut misled = false;
            let result = nat.offload.send(
                &nat.socket,
                batch,
                self.local,
                |_| Some(shared.source),
                |error| {
                    misled |= matches!(
                        error.raw_os_error(),
                        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
                    );
                    Ok(())
                },
            );
            if misled {
                // The address is not (or no longer) one that we may send from.
                self.local = None;
            }
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = nat.socket.clone();
                    self.writable = Some(Box::pin(async move { socket.writable().await }));
                }
                result => return Poll::Ready(result),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.close();
        self.nat.forget(&self.shared);
    }
}
