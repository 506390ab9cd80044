//! What is to be sent on one connection: three queues of whole frames, bounded in bytes.
//!
//! Whoever has a packet for somebody copies it once, as the frame that will be sent, into the queue of that connection;
//! its task takes all that has gathered at one blow. A queue that is full loses its oldest packets, as upstream does:
//! fresh ones are worth more. So a connection that is slow, or stands, costs nobody but itself.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::Context,
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use crate::{
    frame::{self, FromServer, HEAD_LEN, Sink, is_disco, kind},
    key::{KEY_LEN, Key},
};

/// Bytes of packets that may wait for one connection.
const PACKETS: usize = 256 << 10;

/// Bytes of packets that may wait where very many wait already.
const PACKETS_IN_NEED: usize = 32 << 10;

/// Bytes of packets in all queues of the process from which on [`PACKETS_IN_NEED`] holds.
const NEED: usize = 64 << 20;

/// Bytes of disco messages that may wait.
const DISCO: usize = 32 << 10;

/// Bytes of frames of our own that may wait for a client. What is more is dropped: they are hints.
const CONTROL: usize = 64 << 10;

/// The same for another server, which must not miss one: its connection ends instead.
const CONTROL_TRUSTED: usize = 16 << 20;

/// Bytes of packets in all queues.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The queues of one connection.
#[derive(Default)]
pub struct Mailbox {
    queues: Mutex<Queues>,
    waker: AtomicWaker,
    closed: AtomicBool,
    dropped: AtomicUsize,
}

#[derive(Default)]
struct Queues {
    control: VecDeque<u8>,
    disco: Packets,
    packets: Packets,
}

/// Frames, one behind the other.
#[derive(Default)]
struct Packets {
    bytes: VecDeque<u8>,
    lens: VecDeque<u32>,
}

impl Packets {
    /// Makes room for a frame by losing the oldest ones; returns how many were lost.
    fn make_room(&mut self, len: usize, limit: usize) -> usize {
        let mut lost = 0;
        while self.bytes.len() + len > limit
            && let Some(oldest) = self.lens.pop_front()
        {
            let oldest = (oldest as usize).min(self.bytes.len());
            drop(self.bytes.drain(..oldest));
            WAITING.fetch_sub(oldest, Ordering::Relaxed);
            lost += 1;
        }
        lost
    }

    fn push(&mut self, kind: u8, parts: &[&[u8]], limit: usize) -> usize {
        let len = HEAD_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        let lost = self.make_room(len, limit);
        self.lens.push_back(u32::try_from(len).unwrap_or(u32::MAX));
        self.bytes.reserve(len);
        frame::emit(&mut self.bytes, kind, parts);
        WAITING.fetch_add(len, Ordering::Relaxed);
        lost
    }

    /// Swaps what waits with `out`, which is empty.
    fn take(&mut self, out: &mut VecDeque<u8>) {
        WAITING.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.lens.clear();
        std::mem::swap(&mut self.bytes, out);
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        WAITING.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Mailbox {
    /// Queues a packet for a client. `false`: something was lost for it.
    pub fn receive(&self, from: &Key, packet: &[u8]) -> bool {
        self.packet(kind::RECEIVE, &[&from.0, packet], packet)
    }

    /// Queues a packet for a server to deliver. `false`: something was lost for it.
    pub fn send(&self, to: &Key, packet: &[u8]) -> bool {
        self.packet(kind::SEND, &[&to.0, packet], packet)
    }

    /// Queues a packet of one of our clients for another server of the region. `false`: something was lost for it.
    pub fn forward(&self, from: &Key, to: &Key, packet: &[u8]) -> bool {
        self.packet(kind::FORWARD, &[&from.0, &to.0, packet], packet)
    }

    fn packet(&self, kind: u8, parts: &[&[u8]], packet: &[u8]) -> bool {
        let mut queues = self.queues.lock();
        if self.is_closed() {
            return false;
        }
        let lost = if is_disco(packet) {
            queues.disco.push(kind, parts, DISCO)
        } else {
            let need = WAITING.load(Ordering::Relaxed) > NEED;
            queues.packets.push(kind, parts, if need { PACKETS_IN_NEED } else { PACKETS })
        };
        drop(queues);
        if lost > 0 {
            self.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        self.waker.wake();
        lost == 0
    }

    /// Queues a frame of our own, in front of all packets; none if too many wait. `false`: it was dropped.
    pub fn control(&self, limit: Limit, emit: impl FnOnce(&mut VecDeque<u8>)) -> bool {
        let mut queues = self.queues.lock();
        let full = queues.control.len() >= limit.bytes();
        if full || self.is_closed() {
            drop(queues);
            if full && limit == Limit::Complete {
                self.close();
            }
            return false;
        }
        emit(&mut queues.control);
        drop(queues);
        self.waker.wake();
        true
    }

    /// Says that somebody cannot be reached.
    pub fn peer_gone(&self, key: Key, why: frame::Gone) -> bool {
        self.control(Limit::Hints, |out| FromServer::PeerGone(key, why).emit(out))
    }

    /// Ends the connection: its task sees it next.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the connection is to end, or has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Packets that were lost because the connection was slow.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Wakes this task whenever something is queued, until it was woken once.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Moves what waits into `out`, which is empty, the most urgent first. `false`: nothing waits.
    pub fn take(&self, out: &mut VecDeque<u8>) -> bool {
        let mut queues = self.queues.lock();
        if !queues.control.is_empty() {
            std::mem::swap(&mut queues.control, out);
        } else if !queues.disco.bytes.is_empty() {
            queues.disco.take(out);
        } else if !queues.packets.bytes.is_empty() {
            queues.packets.take(out);
        } else {
            // A connection that is idle holds no memory for frames.
            *out = VecDeque::new();
            if queues.packets.bytes.capacity() > 0 || queues.control.capacity() > 0 {
                *queues = Queues::default();
            }
            return false;
        }
        true
    }

    /// All that waits.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut part = VecDeque::new();
        while self.take(&mut part) {
            all.extend(part.drain(..));
        }
        all
    }
}

/// How many frames of our own may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Few: it does no harm to miss one.
    Hints,
    /// Many, and all must arrive: where they do not fit the connection ends.
    Complete,
}

impl Limit {
    fn bytes(self) -> usize {
        match self {
            Self::Hints => CONTROL,
            Self::Complete => CONTROL_TRUSTED,
        }
    }
}

/// Bytes of a frame in the queues that carries a packet of `len` bytes to a client.
#[must_use]
pub fn received_len(len: usize) -> usize {
    HEAD_LEN + KEY_LEN + len
}

/// What frames are queued in.
pub type Queue = VecDeque<u8>;

const _: fn() = || {
    fn is_sink<T: Sink>() {}
    is_sink::<Queue>();
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Gone, MAX_PACKET, Step};

    fn received(bytes: &[u8]) -> Vec<FromServer<'_>> {
        let (mut rest, mut frames) = (bytes, Vec::new());
        while let Ok(Step::Frame(frame, used)) = FromServer::next(rest) {
            frames.push(frame);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
        frames
    }

    #[test]
    fn the_urgent_goes_first_and_the_oldest_is_lost() {
        let mailbox = Mailbox::default();
        let from = Key([1; 32]);
        let disco = [b"TS\xf0\x9f\x92\xac".as_slice(), &[0; 60]].concat();
        let fits = PACKETS / received_len(1000);
        for i in 0..fits + 3 {
            let packet = [u8::try_from(i % 256).unwrap(); 1000];
            assert_eq!(mailbox.receive(&from, &packet), i < fits);
        }
        assert!(mailbox.receive(&from, &disco));
        assert!(mailbox.peer_gone(from, Gone::NotHere));
        assert_eq!(mailbox.dropped(), 3);
        let bytes = mailbox.taken();
        let frames = received(&bytes);
        assert_eq!(frames.len(), fits + 2);
        assert_eq!(frames[0], FromServer::PeerGone(from, Gone::NotHere));
        assert_eq!(frames[1], FromServer::Receive { from, packet: &disco });
        assert_eq!(frames[2], FromServer::Receive { from, packet: &[3; 1000] });
        assert!(mailbox.taken().is_empty());
    }

    #[test]
    fn hints_are_dropped_and_what_must_arrive_ends_the_connection() {
        let mailbox = Mailbox::default();
        let mut queued = 0;
        while mailbox.peer_gone(Key([2; 32]), Gone::Disconnected) {
            queued += 1;
        }
        assert!((1500..2000).contains(&queued), "{queued}");
        assert!(!mailbox.is_closed());
        let mailbox = Mailbox::default();
        let part = vec![0; CONTROL_TRUSTED];
        assert!(mailbox.control(Limit::Complete, |out| frame::emit(out, 9, &[&part])));
        assert!(!mailbox.control(Limit::Complete, |out| frame::emit(out, 9, &[])));
        assert!(mailbox.is_closed());
        assert!(!mailbox.receive(&Key([1; 32]), b"late"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever is lost, what is sent are whole frames in their order, and all that waits fits.
        #[test]
        fn frames_stay_whole(steps in prop::collection::vec((0..4u8, 0..MAX_PACKET), 1..60)) {
            let mailbox = Mailbox::default();
            let (from, mut number, mut last, mut lost) = (Key([1; 32]), 0u32, None, 0);
            for (what, len) in steps {
                match what {
                    0 => {
                        let bytes = mailbox.taken();
                        prop_assert!(bytes.len() <= PACKETS + DISCO + CONTROL);
                        for frame in received(&bytes) {
                            let FromServer::Receive { packet, .. } = frame else { continue };
                            let at = u32::from_be_bytes(*packet.first_chunk().unwrap());
                            prop_assert!(last.is_none_or(|last| last < at));
                            prop_assert!(packet[4..].iter().all(|byte| *byte == at as u8));
                            last = Some(at);
                        }
                    }
                    1 => drop(mailbox.peer_gone(from, Gone::NotHere)),
                    _ => {
                        let mut packet = number.to_be_bytes().to_vec();
                        packet.resize(4 + len.min(MAX_PACKET - 4), number as u8);
                        lost += usize::from(!mailbox.receive(&from, &packet));
                        number += 1;
                    }
                }
            }
            prop_assert!((mailbox.dropped() > 0) == (lost > 0));
        }
    }
}
