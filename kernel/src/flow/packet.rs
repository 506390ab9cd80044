//! Datagrams, moved in batches.

use std::{
    io,
    task::{Context, Poll},
};

use crate::addr::Target;

/// Datagrams that one batch can hold.
pub const BATCH: usize = 32;

/// Largest UDP payload.
pub const MAX_DATAGRAM: usize = 65_535;

/// Free bytes in front of every received datagram, so that a layer prepends its header in place.
pub const HEADROOM: usize = 320;

const SLOT: usize = HEADROOM + MAX_DATAGRAM + 1 + 64;

/// One datagram within a [`Batch`]: where its payload lies, and its peer.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Destination when it comes from a client, source when it comes from a server.
    pub peer: Target,
    slot: usize,
    start: usize,
    end: usize,
}

/// A bounded set of datagrams in one arena. Batches are taken from a pool for the moment in which
/// packets move and go back before the task sleeps, so that an idle association holds none.
pub struct Batch {
    arena: Box<[u8]>,
    packets: Vec<Packet>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("packets", &self.packets).finish()
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch. The arena is reserved but not touched: only pages that packets reach cost memory.
    pub fn new() -> Self {
        Self { arena: vec![0; SLOT * BATCH].into_boxed_slice(), packets: Vec::with_capacity(BATCH) }
    }

    /// Number of datagrams.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether no further datagram fits.
    pub fn is_full(&self) -> bool {
        self.packets.len() == BATCH
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.packets.clear();
    }

    /// The free space of the next datagram, behind its headroom; empty when the batch is full.
    /// Fill it and call [`Batch::commit`].
    pub fn spare(&mut self) -> &mut [u8] {
        match self.packets.len() {
            BATCH => &mut [],
            slot => {
                let base = slot * SLOT + HEADROOM;
                &mut self.arena[base..base + MAX_DATAGRAM]
            }
        }
    }

    /// The free spaces of all further datagrams, for a receive call that fills several.
    pub fn spares(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let used = self.packets.len();
        self.arena
            .chunks_exact_mut(SLOT)
            .skip(used)
            .map(|slot| &mut slot[HEADROOM..HEADROOM + MAX_DATAGRAM])
    }

    /// Makes the first `len` bytes of [`Batch::spare`] a datagram. Ignored when the batch is full.
    pub fn commit(&mut self, len: usize, peer: Target) {
        let slot = self.packets.len();
        if slot < BATCH {
            let start = slot * SLOT + HEADROOM;
            self.packets.push(Packet { peer, slot, start, end: start + len.min(MAX_DATAGRAM) });
        }
    }

    /// Copies a datagram in. Returns false when the batch is full or the datagram too large.
    pub fn push(&mut self, payload: &[u8], peer: Target) -> bool {
        if self.is_full() || payload.len() > MAX_DATAGRAM {
            return false;
        }
        self.spare()[..payload.len()].copy_from_slice(payload);
        self.commit(payload.len(), peer);
        true
    }

    /// The payload of datagram `index`.
    pub fn payload(&self, index: usize) -> &[u8] {
        let p = &self.packets[index];
        &self.arena[p.start..p.end]
    }

    /// The payload of datagram `index`, to change in place.
    pub fn payload_mut(&mut self, index: usize) -> &mut [u8] {
        let p = &self.packets[index];
        &mut self.arena[p.start..p.end]
    }

    /// The peer of datagram `index`.
    pub fn peer(&self, index: usize) -> &Target {
        &self.packets[index].peer
    }

    /// Changes the peer of datagram `index`.
    pub fn set_peer(&mut self, index: usize, peer: Target) {
        self.packets[index].peer = peer;
    }

    /// Drops the first `n` bytes of datagram `index` (a header that was read).
    pub fn trim_front(&mut self, index: usize, n: usize) {
        let p = &mut self.packets[index];
        p.start = (p.start + n).min(p.end);
    }

    /// Cuts datagram `index` to `len` bytes.
    pub fn truncate(&mut self, index: usize, len: usize) {
        let p = &mut self.packets[index];
        p.end = p.end.min(p.start + len);
    }

    /// Grows datagram `index` by `n` bytes at its front and returns them, or `None` when the headroom
    /// is used up.
    pub fn grow_front(&mut self, index: usize, n: usize) -> Option<&mut [u8]> {
        let p = &mut self.packets[index];
        let start = p.start.checked_sub(n).filter(|start| *start >= p.slot * SLOT)?;
        p.start = start;
        Some(&mut self.arena[start..start + n])
    }

    /// Grows datagram `index` by `n` bytes at its end and returns them, or `None` when there is no room for
    /// them (64 bytes are behind the longest datagram).
    pub fn grow_back(&mut self, index: usize, n: usize) -> Option<&mut [u8]> {
        let p = &mut self.packets[index];
        let end = p.end.checked_add(n).filter(|end| *end <= (p.slot + 1) * SLOT)?;
        let start = std::mem::replace(&mut p.end, end);
        Some(&mut self.arena[start..end])
    }

    /// Keeps only the datagrams for which `keep` says so, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&Target, &mut [u8]) -> bool) {
        let arena = &mut self.arena;
        self.packets.retain(|p| keep(&p.peer, &mut arena[p.start..p.end]));
        // A dropped datagram leaves its slot unused until the batch is cleared; `spare` counts
        // packets, so slots must stay dense: move the survivors' payloads down.
        for index in 0..self.packets.len() {
            let p = &mut self.packets[index];
            if p.slot != index {
                let delta = (p.slot - index) * SLOT;
                arena.copy_within(p.start..p.end, p.start - delta);
                (p.start, p.end, p.slot) = (p.start - delta, p.end - delta, index);
            }
        }
    }

    /// Removes the first `n` datagrams (those that were sent).
    pub fn drain_front(&mut self, n: usize) {
        let mut left = n;
        self.retain(|_, _| {
            let gone = left > 0;
            left = left.saturating_sub(1);
            !gone
        });
    }
}

/// A datagram association: receives and sends batches. One task polls both directions.
pub trait PacketIo: Send + Unpin + 'static {
    /// Adds received datagrams to `batch` (which has room). Ready with the number added, at least
    /// one, or with an error that ends the association.
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>>;

    /// Sends datagrams from the front of `batch` and removes those that were sent or that can never
    /// be sent. Ready when the batch is empty; pending when the socket is full, with the rest
    /// still in the batch. May change payloads and peers.
    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>>;

    /// Tells the client that its request succeeded or failed; see
    /// [`Stream::poll_answer`](super::Stream::poll_answer).
    fn poll_answer(
        &mut self,
        _cx: &mut Context<'_>,
        _outcome: Result<Option<std::net::SocketAddr>, &crate::error::DialError>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An association behind one pointer.
pub type BoxPacketIo = Box<dyn PacketIo>;
