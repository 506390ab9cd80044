//! IP packets, moved in batches.

use std::cell::RefCell;

/// Bytes at the beginning of a packet in which headers are: what [`Packets::push_with`] gives as zeroes.
const HEADERS: usize = 64;
/// Memory that an empty batch keeps.
const KEPT: usize = 256 * 1024;

thread_local! {
    static OUT: RefCell<Packets> = RefCell::default();
}

/// IP packets one behind the other in one buffer, which is kept for the next batch.
#[derive(Debug, Default)]
pub struct Packets {
    /// What lies behind `used` is old, and is not cleared: most of it is written over at once.
    bytes: Vec<u8>,
    used: usize,
    ends: Vec<usize>,
}

impl Packets {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lends an empty batch of the thread: streams and associations have no memory of their own for what they send.
    pub(crate) fn borrowed<R>(with: impl FnOnce(&mut Self) -> R) -> R {
        let mut out = OUT.take();
        out.clear();
        let result = with(&mut out);
        OUT.set(out);
        result
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets all packets and keeps some of the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        self.ends.clear();
        if self.bytes.len() > KEPT {
            self.bytes.truncate(KEPT);
            self.bytes.shrink_to_fit();
        }
    }

    /// Room for so many bytes, with whatever is in it.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    fn added(&mut self, len: usize) {
        self.used += len;
        self.ends.push(self.used);
    }

    /// Adds a copy of a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.room(packet.len()).copy_from_slice(packet);
        self.added(packet.len());
    }

    /// Adds a packet of `len` bytes that `fill` writes: its first 64 bytes are zeroes, the others are whatever was there.
    pub fn push_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let room = self.room(len);
        room[..len.min(HEADERS)].fill(0);
        let result = fill(room);
        self.added(len);
        result
    }

    /// Adds a packet that `fill` writes at the beginning of `most` bytes, which hold whatever was there, and whose
    /// length it returns; none if that is 0.
    pub fn push_within(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let len = fill(self.room(most)).min(most);
        if len > 0 {
            self.added(len);
        }
    }

    /// Adds packets that `fill` makes of `most` bytes: it writes a packet as with [`Packets::push_with`], and cuts it with
    /// `cut`, which gets the same bytes and tells the length of one packet after the other, from the beginning of them.
    pub(crate) fn push_cut<R>(
        &mut self,
        (at, len): (usize, usize),
        fill: impl FnOnce(&mut [u8]) -> R,
        cut: impl FnOnce(&mut [u8], &mut dyn FnMut(usize)),
    ) -> R {
        let end = self.used + at + len;
        self.room(at + len);
        let Some(room) = self.bytes.get_mut(self.used..end) else { return fill(&mut []) };
        room[at..at + len.min(HEADERS)].fill(0);
        let result = fill(&mut room[at..]);
        let (used, ends) = (&mut self.used, &mut self.ends);
        cut(room, &mut |len| {
            *used += len;
            ends.push(*used);
        });
        result
    }

    /// The packets, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let packet = &self.bytes[start..*end];
            start = *end;
            packet
        })
    }
}
