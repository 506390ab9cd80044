//! UDP: associations of clients behind the tunnel, by their address, and associations of our own, by their port.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crosspoint_kernel::{
    addr::Target,
    flow::{Batch, PacketIo},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    Link, Screen, checksum,
    ip::{self, protocol},
    packets::Packets,
};

/// Datagrams and bytes that may wait for a reader; what comes beyond is dropped, as a socket does it.
const WAITING: (usize, usize) = (512, 512 * 1024);
/// Bytes that may wait in all associations together before each of them may have only so many.
const CROWDED: (usize, usize) = (32 * 1024 * 1024, 16 * 1024);
/// Memory that an empty queue keeps.
const KEPT: usize = 16 * 1024;
/// Length of the header (RFC 768).
const HEADER: usize = 8;

/// Reads a datagram: its ports and payload.
pub(crate) fn parse(datagram: &[u8]) -> Option<(u16, u16, &[u8])> {
    let header: &[u8; HEADER] = datagram.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let payload = datagram.get(HEADER..usize::from(word(4)))?;
    (word(2) != 0).then_some((word(0), word(2), payload))
}

/// Writes a datagram.
pub(crate) fn emit(
    out: &mut Packets,
    (src, dst): (SocketAddr, SocketAddr),
    payload: &[u8],
    mtu: usize,
    id: u32,
) {
    let Ok(len) = u16::try_from(HEADER + payload.len()) else { return };
    let mut header = [0; HEADER];
    for (place, word) in header.chunks_mut(2).zip([src.port(), dst.port(), len, 0]) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    // The header has an even length: the sum of both is the sum of their sums.
    let sum = checksum::of_parts(src.ip(), dst.ip(), protocol::UDP, [&header, payload]);
    // Zero would say that there is none.
    let sum = if sum == 0 { u16::MAX } else { sum };
    header[6..8].copy_from_slice(&sum.to_be_bytes());
    ip::emit_parts(out, (src.ip(), dst.ip()), protocol::UDP, [&header, payload], mtu, id);
}

/// Datagrams that wait for their reader.
#[derive(Default)]
struct Inbox {
    /// The other end of each, and its length.
    heads: VecDeque<(SocketAddr, usize)>,
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
}

impl Inbox {
    fn put(&mut self, peer: SocketAddr, payload: &[u8], all: &AtomicUsize) {
        let crowded = all.load(Ordering::Relaxed) > CROWDED.0;
        let most = if crowded { CROWDED.1 } else { WAITING.1 };
        if self.heads.len() < WAITING.0 && self.bytes.len() + payload.len() <= most {
            self.heads.push_back((peer, payload.len()));
            self.bytes.extend(payload);
            all.fetch_add(payload.len(), Ordering::Relaxed);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Moves datagrams into a batch, and says how many.
    fn take(&mut self, batch: &mut Batch, all: &AtomicUsize) -> usize {
        let (mut taken, before) = (0, self.bytes.len());
        while !batch.is_full()
            && let Some((peer, len)) = self.heads.pop_front()
        {
            let spare = batch.spare();
            let (front, back) = self.bytes.as_slices();
            let first = front.len().min(len);
            spare[..first].copy_from_slice(&front[..first]);
            spare[first..len].copy_from_slice(&back[..len - first]);
            self.bytes.drain(..len);
            batch.commit(len, peer.into());
            taken += 1;
        }
        all.fetch_sub(before - self.bytes.len(), Ordering::Relaxed);
        if self.heads.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = VecDeque::new();
        }
        taken
    }
}

/// What two ends of an association share.
struct Shared {
    inbox: Mutex<Inbox>,
    /// Bytes that wait in all associations of the stack.
    all: Arc<AtomicUsize>,
}

impl Shared {
    fn put(&self, peer: SocketAddr, payload: &[u8]) {
        self.inbox.lock().put(peer, payload, &self.all);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.all.fetch_sub(self.inbox.get_mut().bytes.len(), Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    /// A client behind the tunnel.
    Client(SocketAddr),
    /// An address of ours.
    Own(SocketAddr),
}

/// All associations of a stack.
pub(crate) struct Table {
    flows: RwLock<HashMap<Key, Arc<Shared>>>,
    /// Bytes that wait in all of them.
    all: Arc<AtomicUsize>,
    ids: AtomicU32,
    mtu: usize,
    link: Arc<dyn Link>,
}

impl Table {
    pub(crate) fn new(mtu: usize, link: Arc<dyn Link>) -> Self {
        Self { flows: RwLock::default(), all: Arc::default(), ids: AtomicU32::new(1), mtu, link }
    }

    /// Takes a datagram. The association of a client that had none, if `screen` agrees.
    pub(crate) fn take(
        self: &Arc<Self>,
        src: SocketAddr,
        dst: SocketAddr,
        payload: &[u8],
        screen: impl FnOnce() -> Screen,
    ) -> Option<Association> {
        let flows = self.flows.read();
        if let Some(own) = flows.get(&Key::Own(dst)) {
            own.put(src, payload);
            return None;
        }
        if let Some(client) = flows.get(&Key::Client(src)) {
            client.put(dst, payload);
            return None;
        }
        drop(flows);
        if screen() != Screen::Accept {
            return None;
        }
        let association = self.add(Key::Client(src))?;
        association.shared.put(dst, payload);
        Some(association)
    }

    /// Opens an association from an address of ours. `None` if there is one.
    pub(crate) fn bind(self: &Arc<Self>, own: SocketAddr) -> Option<Association> {
        self.add(Key::Own(own))
    }

    fn add(self: &Arc<Self>, key: Key) -> Option<Association> {
        let shared = Arc::new(Shared { inbox: Mutex::default(), all: self.all.clone() });
        let mut flows = self.flows.write();
        if flows.contains_key(&key) {
            return None;
        }
        flows.insert(key, shared.clone());
        Some(Association { table: Arc::downgrade(self), link: self.link.clone(), key, shared })
    }
}

/// A datagram association behind a tunnel.
pub struct Association {
    table: Weak<Table>,
    link: Arc<dyn Link>,
    key: Key,
    shared: Arc<Shared>,
}

impl PacketIo for Association {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let mut inbox = self.shared.inbox.lock();
        match inbox.take(batch, &self.shared.all) {
            0 => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let Some(table) = self.table.upgrade() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        Packets::borrowed(|out| {
            self.emit(&table, batch, out);
            self.link.send(out);
        });
        batch.clear();
        Poll::Ready(Ok(()))
    }
}

impl Association {
    fn emit(&self, table: &Table, batch: &Batch, out: &mut Packets) {
        for index in 0..batch.len() {
            // A name cannot stand in a packet: whoever opened the association resolved those that matter.
            let Some(peer) = Target::socket_addr(batch.peer(index)) else { continue };
            let ends = match self.key {
                Key::Client(client) => (peer, client),
                Key::Own(own) => (own, peer),
            };
            let id = table.ids.fetch_add(1, Ordering::Relaxed);
            emit(out, ends, batch.payload(index), table.mtu, id);
        }
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.flows.write().remove(&self.key);
        }
    }
}

/// Whether an address can be an end of a datagram.
pub(crate) fn is_end(ip: IpAddr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified()
}
