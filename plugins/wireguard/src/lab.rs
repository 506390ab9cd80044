//! Two devices without a network between them: whoever tests or fuzzes carries their messages.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use boringtun::x25519::{PublicKey, StaticSecret};
use crosspoint_kernel::flow::Batch;
use crosspoint_netstack::{Link as _, Packets};
use crosspoint_schema::decode::Prefix;
use parking_lot::Mutex;

use crate::{
    device::{Device, Inward},
    options::WireGuardPeer,
    outer::Outer,
    peers::Config,
    tunnel::{HANDSHAKE, OVERHEAD},
};

/// Largest packet inside.
const MTU: usize = 1408;

type Deliver = Box<dyn FnMut(&Packets) + Send>;

struct Side {
    device: Arc<Device>,
    outer: Arc<Outer>,
    inward: Inward<Deliver>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Two devices that are each other's peers. Side 0 is 10.9.0.1 and knows where side 1 is; side 1 is 10.9.0.2 and has to
/// be found out by what side 0 says.
pub struct Lab {
    sides: [Side; 2],
}

/// The key of a side.
fn key(side: usize) -> [u8; 32] {
    [if side == 0 { 1 } else { 2 }; 32]
}

/// Where a side is.
#[must_use]
pub fn address(side: usize) -> SocketAddr {
    ([127, 0, 0, 1], if side == 0 { 1001 } else { 1002 }).into()
}

/// What `side` knows of the other one.
fn peer(side: usize, keepalive: u16) -> Option<Config> {
    let public = PublicKey::from(&StaticSecret::from(key(1 - side)));
    let mut options = WireGuardPeer {
        public_key: BASE64_STANDARD.encode(public.as_bytes()),
        persistent_keepalive_interval: keepalive,
        ..WireGuardPeer::default()
    };
    let behind = if side == 0 { "10.9.0.2/32" } else { "10.9.0.1/32" };
    options.allowed_ips = Prefix::parse(behind).into_iter().collect();
    if side == 0 {
        let at = address(1);
        (options.address, options.port) = (at.ip().to_string(), at.port());
    }
    Config::new(0, &options).ok()
}

impl Lab {
    /// Two devices that have not spoken yet. Side 0 keeps the way open every so many seconds, never if 0.
    #[must_use]
    pub fn new(keepalive: u16) -> Self {
        let side = |side: usize| {
            let outer = Outer::detached();
            let keepalive = if side == 0 { keepalive } else { 0 };
            let peers: Vec<Config> = peer(side, keepalive).into_iter().collect();
            let device = Arc::new(Device::new(key(side), &peers, outer.clone(), MTU));
            let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
            let into = heard.clone();
            let deliver: Deliver = Box::new(move |packets| {
                into.lock().extend(packets.iter().map(<[u8]>::to_vec));
            });
            let inward = Inward { device: device.clone(), inside: Packets::new(), deliver };
            Side { device, outer, inward, heard }
        };
        Self { sides: [side(0), side(1)] }
    }

    /// The device of a side.
    #[must_use]
    pub fn device(&self, side: usize) -> &Arc<Device> {
        &self.sides[side].device
    }

    /// Sends a packet from inside.
    pub fn send(&self, side: usize, packet: &[u8]) {
        let mut packets = Packets::new();
        packets.push(packet);
        self.sides[side].device.send(&packets);
    }

    /// Takes the messages that a side wants to send, and where to.
    #[must_use]
    pub fn messages(&self, side: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let sent = self.sides[side].outer.taken().into_iter();
        sent.flat_map(|(to, bytes, size)| {
            let messages: Vec<_> = bytes.chunks(size.max(1)).map(<[u8]>::to_vec).collect();
            messages.into_iter().map(move |message| (to, message))
        })
        .collect()
    }

    /// Gives a side messages from an address.
    pub fn hear<'a>(
        &mut self,
        side: usize,
        from: SocketAddr,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let mut messages = messages.into_iter().peekable();
        if messages.peek().is_none() {
            return;
        }
        let mut batch = Batch::new();
        for message in messages {
            if batch.is_full() {
                self.sides[side].inward.open_all(&mut batch);
                batch.clear();
            }
            batch.push(message, from.into());
        }
        self.sides[side].inward.open_all(&mut batch);
    }

    /// Carries messages to and fro until there are none, and says how many.
    pub fn carry(&mut self) -> usize {
        let mut carried = 0;
        loop {
            let mut quiet = true;
            for side in [0, 1] {
                let messages = self.messages(side);
                quiet &= messages.is_empty();
                carried += messages.len();
                let messages = messages.iter().filter(|(to, _)| *to == address(1 - side));
                self.hear(1 - side, address(side), messages.map(|(_, message)| &**message));
            }
            if quiet {
                return carried;
            }
        }
    }

    /// Packets that have come out of the tunnel at a side.
    #[must_use]
    pub fn heard(&self, side: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.sides[side].heard.lock())
    }

    /// Has both sides look at the clock.
    pub fn tick(&self) {
        let mut buf = vec![0; MTU.max(HANDSHAKE) + OVERHEAD];
        for side in &self.sides {
            side.device.tick_once(&mut buf);
        }
    }
}
