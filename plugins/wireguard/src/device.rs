//! The data plane of one tunnel device: packets between the stack and the peers, and the timers of both.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use boringtun::noise::{Packet, Tunn, TunnResult, handshake::parse_handshake_anon};
use crosspoint_kernel::flow::Batch;
use crosspoint_netstack::{Link, Packets, ip};
use parking_lot::Mutex;

use crate::{
    keys::Key,
    outer::Outer,
    peers::{Config, Identity, Peer, Peers},
    tunnel::{HANDSHAKE, OVERHEAD, Step, TICK},
};

/// Type of a message, in its first byte.
const INITIATION: u8 = 1;
const COOKIE: u8 = 3;

/// A tunnel device: encrypts what the stack sends, decrypts what peers send.
pub struct Device {
    identity: Identity,
    peers: ArcSwap<Peers>,
    /// One change at a time.
    changing: Mutex<()>,
    outer: Arc<Outer>,
    mtu: usize,
}

/// Messages for one peer that leave together: one behind the other, of one size but the last.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    size: usize,
    /// The last one was shorter.
    ended: bool,
}

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
}

impl Run {
    /// Adds a message that `write` puts at the beginning of room for `most` bytes and whose length it returns. What
    /// cannot leave together with those before is given to `flush` first.
    fn add(
        &mut self,
        most: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
        mut flush: impl FnMut(&mut Self),
    ) {
        let at = self.bytes.len();
        self.bytes.resize(at + most, 0);
        let len = write(&mut self.bytes[at..]);
        self.bytes.truncate(at + len);
        if len == 0 {
            return;
        }
        if at > 0 && (self.ended || len > self.size) {
            let last = self.bytes.split_off(at);
            flush(self);
            self.bytes = last;
            (self.size, self.ended) = (len, false);
            return;
        }
        if at == 0 {
            self.size = len;
        }
        self.ended = len < self.size;
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.size, self.ended) = (0, false);
    }
}

impl Device {
    /// A device that talks to those peers through `outer`. Packets inside have `mtu` bytes at most.
    pub(crate) fn new(key: Key, peers: &[Config], outer: Arc<Outer>, mtu: usize) -> Self {
        let identity = Identity::new(key);
        let peers = ArcSwap::from_pointee(Peers::new(peers, &identity, None));
        Self { identity, peers, changing: Mutex::new(()), outer, mtu }
    }

    /// Takes other peers. Those that stay the same keep their sessions.
    pub(crate) fn set_peers(&self, configs: &[Config]) {
        let _one = self.changing.lock();
        let next = Peers::new(configs, &self.identity, Some(&self.peers.load()));
        self.peers.store(Arc::new(next));
    }

    /// The peers in force.
    pub(crate) fn peers(&self) -> Arc<Peers> {
        self.peers.load_full()
    }

    /// A peer was found at an address.
    pub(crate) fn found(&self, peer: &Peer, at: SocketAddr) {
        peer.seen_at(at);
        let mut buf = [0; HANDSHAKE + OVERHEAD];
        let mut tunnel = peer.tunnel.lock();
        let step = tunnel.found(&mut buf);
        self.reply(peer, at, &step, &mut buf);
    }

    fn flush(&self, peer: &Peer, run: &mut Run) {
        if !run.bytes.is_empty() {
            if let Some(to) = peer.endpoint() {
                peer.mark(&mut run.bytes, run.size);
                self.outer.send(to, &run.bytes, run.size);
            }
            run.clear();
        }
    }

    /// Sends a step's message, if it made one.
    fn reply(&self, peer: &Peer, to: SocketAddr, step: &Step, buf: &mut [u8]) {
        if let Step::Network(len) = step {
            peer.mark(&mut buf[..*len], *len);
            self.outer.send(to, &buf[..*len], *len);
        }
    }

    /// Does what the time makes due, for ever.
    pub(crate) async fn tick(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buf = vec![0; self.mtu.max(HANDSHAKE) + OVERHEAD];
        loop {
            tick.tick().await;
            self.tick_once(&mut buf);
        }
    }

    /// What the time makes due, into room for the largest message.
    pub(crate) fn tick_once(&self, buf: &mut [u8]) {
        // It counts seconds by itself.
        self.identity.limiter.reset_count();
        for peer in self.peers().iter() {
            let step = peer.tunnel.lock().tick(buf);
            if let Some(to) = peer.endpoint() {
                self.reply(peer, to, &step, buf);
            }
        }
    }

    /// The peer that a message is from: a handshake names it by its key, everything else by our number.
    fn sender(&self, peers: &Peers, from: SocketAddr, message: &[u8]) -> Option<Arc<Peer>> {
        if message.first() == Some(&INITIATION) {
            let mut cookie = [0; HANDSHAKE];
            let limiter = &self.identity.limiter;
            let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(message) else {
                return None;
            };
            // The code is checked, which needs no secret of the peer, before its key is decrypted, which costs.
            match limiter.verify_packet(Some(from.ip()), message, &mut cookie) {
                Ok(_) => {}
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    self.outer.send(from, cookie, cookie.len());
                    return None;
                }
                Err(_) => return None,
            }
            let Identity { secret, public, .. } = &self.identity;
            let half = parse_handshake_anon(secret, public, &init).ok()?;
            return peers.by_key(&half.peer_static_public).cloned();
        }
        peers.by_index(receiver_of(message)?).cloned()
    }

    /// Takes a run of messages from one peer; packets that come out of them go to `inside`.
    fn open(
        &self,
        peers: &Peers,
        peer: &Arc<Peer>,
        run: &[(SocketAddr, &[u8])],
        inside: &mut Packets,
    ) {
        let mut tunnel = peer.tunnel.lock();
        // Most of a run is from one address, outside and inside: what was found out of it holds.
        let (mut seen, mut known, mut received) = (None, None, 0);
        for (from, message) in run {
            let room = message.len().max(HANDSHAKE) + OVERHEAD;
            inside.push_within(room, |buf| match tunnel.open(from.ip(), message, buf) {
                Ok(Step::Inside(len, source)) => {
                    if seen.replace(from) != Some(from) {
                        peer.seen_at(*from);
                    }
                    received += len;
                    // What comes from a peer must be from an address that is behind it.
                    let route =
                        || peers.route(source).is_some_and(|owner| Arc::ptr_eq(owner, peer));
                    if known == Some(source) || route() {
                        known = Some(source);
                        len
                    } else {
                        0
                    }
                }
                Ok(step) => {
                    // A cookie tells nothing of who asked for it, and little of who sent it.
                    let answer = if step == Step::Done { message } else { &*buf };
                    if answer.first() != Some(&COOKIE) {
                        seen = Some(from);
                        peer.seen_at(*from);
                    }
                    self.reply(peer, *from, &step, buf);
                    0
                }
                Err(error) => {
                    tracing::debug!("message from {from}: {error}");
                    0
                }
            });
            // A session may have come of it: packets were waiting for that.
            if tunnel.has_kept() {
                let mut buf = vec![0; self.mtu.max(HANDSHAKE) + OVERHEAD];
                while let step @ Step::Network(_) = tunnel.kept(&mut buf) {
                    self.reply(peer, *from, &step, &mut buf);
                }
            }
        }
        peer.count_received(received);
    }
}

impl Link for Device {
    fn send(&self, packets: &Packets) {
        let peers = self.peers.load();
        let mut run = RUN.take();
        let mut packets = packets.iter().peekable();
        while let Some(packet) = packets.next() {
            let to = destination(packet);
            let Some(peer) = to.and_then(|to| peers.route(to)) else { continue };
            let mut tunnel = peer.tunnel.lock();
            let mut next = Some(packet);
            while let Some(packet) = next {
                let room = (packet.len() + OVERHEAD).max(HANDSHAKE);
                let seal = |buf: &mut [u8]| match tunnel.seal(packet, buf) {
                    Step::Network(len) => len,
                    _ => 0,
                };
                run.add(room, seal, |full| self.flush(peer, full));
                peer.count_sent(packet.len());
                let same = |packet: &&[u8]| {
                    let other = destination(packet);
                    let route = || other.and_then(|other| peers.route(other));
                    other == to || route().is_some_and(|other| Arc::ptr_eq(other, peer))
                };
                next = packets.next_if(same);
            }
            // Sent under the lock: messages of one peer leave in the order of their numbers.
            self.flush(peer, &mut run);
        }
        RUN.set(run);
    }
}

/// Our number of the peer that a message is from; an initiation does not say it.
pub(crate) fn receiver_of(message: &[u8]) -> Option<u32> {
    // Type and three reserved bytes, then the index of the receiver (in an answer to a handshake: behind the sender's). Its
    // lower 8 bits count sessions.
    let at = match message.first()? {
        &INITIATION => return None,
        2 => 8,
        _ => 4,
    };
    Some(u32::from_le_bytes(*message.get(at..)?.first_chunk()?) >> 8)
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    ip::destination(packet)
}

/// Gives what peers send to a stack.
pub(crate) struct Inward<F> {
    pub(crate) device: Arc<Device>,
    pub(crate) inside: Packets,
    /// Takes packets that came out of the tunnel.
    pub(crate) deliver: F,
}

impl<F: Clone> Inward<F> {
    /// Another one that does the same.
    pub(crate) fn another(&self) -> Self {
        Self { device: self.device.clone(), inside: Packets::new(), deliver: self.deliver.clone() }
    }
}

impl<F: FnMut(&Packets)> Inward<F> {
    /// Takes messages of peers.
    pub(crate) fn open_all(&mut self, batch: &mut Batch) {
        // Reserved bytes mean nothing to the protocol.
        for at in 0..batch.len() {
            if let Some(reserved) = batch.payload_mut(at).get_mut(1..4) {
                reserved.fill(0);
            }
        }
        let peers = self.device.peers.load_full();
        let mut run: Vec<(SocketAddr, &[u8])> = Vec::with_capacity(batch.len());
        let mut of: Option<Arc<Peer>> = None;
        // Who that number stands for is known for the messages behind the first one.
        let mut number = None;
        for at in 0..batch.len() {
            let Some(from) = batch.peer(at).socket_addr() else { continue };
            let message = batch.payload(at);
            let receiver = receiver_of(message);
            if of.is_some() && receiver.is_some() && receiver == number {
                run.push((from, message));
                continue;
            }
            number = None;
            let Some(peer) = self.device.sender(&peers, from, message) else { continue };
            number = receiver;
            if of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, &peer)) {
                if let Some(of) = of.replace(peer) {
                    self.device.open(&peers, &of, &run, &mut self.inside);
                }
                run.clear();
            }
            run.push((from, message));
        }
        if let Some(of) = of {
            self.device.open(&peers, &of, &run, &mut self.inside);
        }
        if !self.inside.is_empty() {
            (self.deliver)(&self.inside);
            self.inside.clear();
        }
    }
}
