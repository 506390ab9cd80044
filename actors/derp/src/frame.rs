//! Frames of DERP version 2, without I/O: a byte that says what it is, the length of the rest in 32 bits, the rest
//! (tailscale `derp/derp.go`).
//!
//! A length is believed only as far as its kind of frame allows, and nothing is set aside for it before the bytes are
//! there. What a later version may add, frames of other kinds and bytes at the end of known ones, is passed over.

use std::net::{IpAddr, SocketAddr};

use crate::key::{KEY_LEN, Key};

/// Most bytes of a packet.
pub const MAX_PACKET: usize = 64 << 10;

/// Bytes in front of each frame: kind and length.
pub const HEAD_LEN: usize = 5;

/// Longest frame whose contents anybody looks at, head included.
pub const MAX_FRAME: usize = HEAD_LEN + 2 * KEY_LEN + MAX_PACKET;

/// What a server's first frame begins with.
pub const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";

/// Bytes of a ping or pong that count.
pub const PING_LEN: usize = 8;

/// Longest ping; more space than this is not for its future.
const MAX_PING: usize = 1000;

/// Longest text that a server says about a connection.
const MAX_HEALTH: usize = 4096;

/// Kinds of frames.
pub mod kind {
    /// Server: magic and public key.
    pub const SERVER_KEY: u8 = 0x01;
    /// Client: public key, nonce, sealed JSON.
    pub const CLIENT_INFO: u8 = 0x02;
    /// Server: nonce, sealed JSON.
    pub const SERVER_INFO: u8 = 0x03;
    /// Client: destination, packet.
    pub const SEND: u8 = 0x04;
    /// Server: source, packet.
    pub const RECEIVE: u8 = 0x05;
    /// Server: nothing.
    pub const KEEP_ALIVE: u8 = 0x06;
    /// Client: whether this server is its home.
    pub const NOTE_PREFERRED: u8 = 0x07;
    /// Server: a key, and why.
    pub const PEER_GONE: u8 = 0x08;
    /// Server, to other servers: a key, its address, flags.
    pub const PEER_PRESENT: u8 = 0x09;
    /// Client that is a server: source, destination, packet.
    pub const FORWARD: u8 = 0x0a;
    /// Client that is a server: tell me who is there.
    pub const WATCH: u8 = 0x10;
    /// Client that is a server: end that client's connections.
    pub const CLOSE_PEER: u8 = 0x11;
    /// Both: eight bytes to be sent back.
    pub const PING: u8 = 0x12;
    /// Both: the eight bytes of a ping.
    pub const PONG: u8 = 0x13;
    /// Server: what is wrong with the connection, in words.
    pub const HEALTH: u8 = 0x14;
    /// Server: two times in milliseconds.
    pub const RESTARTING: u8 = 0x15;
}

/// A frame that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is shorter or longer than its kind can be.
    #[error("frame {kind:#04x} of {len} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// What it says of its length.
        len: u32,
    },
    /// It is of another kind than must come here.
    #[error("frame {0:#04x} where another must be")]
    Unexpected(u8),
}

/// Why a destination is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was, and has left.
    Disconnected,
    /// This server does not know it.
    NotHere,
    /// Anything else.
    Other(u8),
}

impl Gone {
    fn code(self) -> u8 {
        match self {
            Self::Disconnected => 0,
            Self::NotHere => 1,
            Self::Other(code) => code,
        }
    }

    fn of(code: u8) -> Self {
        match code {
            0 => Self::Disconnected,
            1 => Self::NotHere,
            code => Self::Other(code),
        }
    }
}

/// What a client is, in [`FromServer::PeerPresent`].
pub mod flags {
    /// Nothing special.
    pub const REGULAR: u8 = 1;
    /// Another server.
    pub const MESH_PEER: u8 = 2;
    /// It measures.
    pub const PROBER: u8 = 4;
    /// It would rather be elsewhere in the region.
    pub const NOT_IDEAL: u8 = 8;
}

/// What a client says after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// A packet for a client of this region.
    Send {
        /// To whom.
        to: Key,
        /// The packet.
        packet: &'a [u8],
    },
    /// A packet that another server received.
    Forward {
        /// Who sent it.
        from: Key,
        /// To whom.
        to: Key,
        /// The packet.
        packet: &'a [u8],
    },
    /// Whether this server is its home.
    NotePreferred(bool),
    /// Tell me who is there.
    Watch,
    /// End the connections of that client.
    ClosePeer(Key),
    /// Send that back.
    Ping([u8; PING_LEN]),
    /// Comes back.
    Pong([u8; PING_LEN]),
}

/// What a server says after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// What it says of itself, sealed.
    Info(&'a [u8]),
    /// A packet.
    Receive {
        /// Who sent it.
        from: Key,
        /// The packet.
        packet: &'a [u8],
    },
    /// Still there.
    KeepAlive,
    /// That client cannot be reached.
    PeerGone(Key, Gone),
    /// That client is there.
    PeerPresent {
        /// Its key.
        key: Key,
        /// Its address, from servers that tell it.
        addr: Option<SocketAddr>,
        /// What it is ([`flags`]); 0 from servers that do not tell.
        flags: u8,
    },
    /// Send that back.
    Ping([u8; PING_LEN]),
    /// Comes back.
    Pong([u8; PING_LEN]),
    /// What is wrong with the connection; nothing if it is empty.
    Health(&'a [u8]),
    /// The server restarts.
    Restarting {
        /// When to come back, in milliseconds.
        reconnect_in: u32,
        /// For how long to try, in milliseconds.
        try_for: u32,
    },
}

/// What stands at the front of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<F> {
    /// The beginning of a frame: so many bytes must be there, counted from its front.
    Need(usize),
    /// A frame of an unknown kind: so many bytes are to be passed over, more perhaps than are there.
    Skip(usize),
    /// A frame, and its length with its head.
    Frame(F, usize),
}

/// A direction of the protocol.
trait Direction<'a>: Sized {
    /// Bytes that a frame of that kind may have; `None` for kinds that are not known.
    fn bounds(kind: u8) -> Option<(usize, usize)>;
    /// The contents, whose length is within those bounds.
    fn read(kind: u8, body: &'a [u8]) -> Option<Self>;
}

fn next<'a, F: Direction<'a>>(bytes: &'a [u8]) -> Result<Step<F>, FrameError> {
    let Some(([kind, len @ ..], rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Ok(Step::Need(HEAD_LEN));
    };
    let (kind, len) = (*kind, u32::from_be_bytes(*len));
    let wrong = FrameError::Length { kind, len };
    // A length of 32 bits fits: there is no smaller platform.
    let whole = HEAD_LEN.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    let Some((least, most)) = F::bounds(kind) else { return Ok(Step::Skip(whole)) };
    if !(least..=most).contains(&(whole - HEAD_LEN)) {
        return Err(wrong);
    }
    match rest.get(..whole - HEAD_LEN) {
        None => Ok(Step::Need(whole)),
        Some(body) => F::read(kind, body).map(|frame| Step::Frame(frame, whole)).ok_or(wrong),
    }
}

impl<'a> FromClient<'a> {
    /// Looks at what a client has sent.
    ///
    /// # Errors
    /// It breaks the protocol.
    pub fn next(bytes: &'a [u8]) -> Result<Step<Self>, FrameError> {
        next(bytes)
    }
}

impl<'a> FromServer<'a> {
    /// Looks at what a server has sent.
    ///
    /// # Errors
    /// It breaks the protocol.
    pub fn next(bytes: &'a [u8]) -> Result<Step<Self>, FrameError> {
        next(bytes)
    }
}

impl<'a> Direction<'a> for FromClient<'a> {
    fn bounds(kind: u8) -> Option<(usize, usize)> {
        Some(match kind {
            kind::SEND => (KEY_LEN, KEY_LEN + MAX_PACKET),
            kind::FORWARD => (2 * KEY_LEN, 2 * KEY_LEN + MAX_PACKET),
            kind::NOTE_PREFERRED => (1, 1),
            kind::WATCH => (0, 0),
            kind::CLOSE_PEER => (KEY_LEN, KEY_LEN),
            kind::PING | kind::PONG => (PING_LEN, MAX_PING),
            _ => return None,
        })
    }

    fn read(kind: u8, body: &'a [u8]) -> Option<Self> {
        Some(match kind {
            kind::SEND => {
                let (to, packet) = body.split_first_chunk()?;
                Self::Send { to: Key(*to), packet }
            }
            kind::FORWARD => {
                let (from, body) = body.split_first_chunk()?;
                let (to, packet) = body.split_first_chunk()?;
                Self::Forward { from: Key(*from), to: Key(*to), packet }
            }
            kind::NOTE_PREFERRED => Self::NotePreferred(*body.first()? != 0),
            kind::WATCH => Self::Watch,
            kind::CLOSE_PEER => Self::ClosePeer(Key::read(body)?),
            kind::PING => Self::Ping(*body.first_chunk()?),
            kind::PONG => Self::Pong(*body.first_chunk()?),
            _ => return None,
        })
    }
}

impl<'a> Direction<'a> for FromServer<'a> {
    fn bounds(kind: u8) -> Option<(usize, usize)> {
        Some(match kind {
            kind::SERVER_INFO => (crate::naclbox::OVERHEAD, MAX_PACKET),
            kind::RECEIVE => (KEY_LEN, KEY_LEN + MAX_PACKET),
            kind::KEEP_ALIVE => (0, MAX_PING),
            kind::PEER_GONE | kind::PEER_PRESENT => (KEY_LEN, MAX_PING),
            kind::PING | kind::PONG => (PING_LEN, MAX_PING),
            kind::HEALTH => (0, MAX_HEALTH),
            kind::RESTARTING => (8, MAX_PING),
            _ => return None,
        })
    }

    fn read(kind: u8, body: &'a [u8]) -> Option<Self> {
        Some(match kind {
            kind::SERVER_INFO => Self::Info(body),
            kind::RECEIVE => {
                let (from, packet) = body.split_first_chunk()?;
                Self::Receive { from: Key(*from), packet }
            }
            kind::KEEP_ALIVE => Self::KeepAlive,
            kind::PEER_GONE => {
                // Old servers give no reason.
                let reason = body.get(KEY_LEN).copied().map_or(Gone::Disconnected, Gone::of);
                Self::PeerGone(Key::read(body)?, reason)
            }
            kind::PEER_PRESENT => {
                let (key, rest) = body.split_first_chunk()?;
                let (addr, rest) = match rest.split_first_chunk::<18>() {
                    Some((addr, rest)) => (Some(address(addr)), rest),
                    None => (None, &[][..]),
                };
                Self::PeerPresent {
                    key: Key(*key),
                    addr,
                    flags: rest.first().copied().unwrap_or(0),
                }
            }
            kind::PING => Self::Ping(*body.first_chunk()?),
            kind::PONG => Self::Pong(*body.first_chunk()?),
            kind::HEALTH => Self::Health(body),
            kind::RESTARTING => {
                let (a, rest) = body.split_first_chunk()?;
                let b = rest.first_chunk()?;
                Self::Restarting {
                    reconnect_in: u32::from_be_bytes(*a),
                    try_for: u32::from_be_bytes(*b),
                }
            }
            _ => return None,
        })
    }
}

/// An address as 16 and 2 bytes.
fn address(bytes: &[u8; 18]) -> SocketAddr {
    let [ip @ .., high, low] = *bytes;
    SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes([high, low]))
}

/// The head of a frame whose rest has `len` bytes.
#[must_use]
pub fn head(kind: u8, len: usize) -> [u8; HEAD_LEN] {
    // Nothing that we send is longer than 32 bits can say.
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c, d]
}

/// What frames are appended to: a `Vec`, or a `VecDeque`.
pub trait Sink: for<'a> Extend<&'a u8> {}

impl<T: for<'a> Extend<&'a u8>> Sink for T {}

/// Appends a frame of those parts.
pub fn emit(out: &mut impl Sink, kind: u8, parts: &[&[u8]]) {
    out.extend(&head(kind, parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        out.extend(*part);
    }
}

impl FromClient<'_> {
    /// Appends the frame. Packets longer than [`MAX_PACKET`] are the caller's to refuse.
    pub fn emit(&self, out: &mut impl Sink) {
        match self {
            Self::Send { to, packet } => emit(out, kind::SEND, &[&to.0, packet]),
            Self::Forward { from, to, packet } => {
                emit(out, kind::FORWARD, &[&from.0, &to.0, packet]);
            }
            Self::NotePreferred(yes) => emit(out, kind::NOTE_PREFERRED, &[&[u8::from(*yes)]]),
            Self::Watch => emit(out, kind::WATCH, &[]),
            Self::ClosePeer(key) => emit(out, kind::CLOSE_PEER, &[&key.0]),
            Self::Ping(data) => emit(out, kind::PING, &[data]),
            Self::Pong(data) => emit(out, kind::PONG, &[data]),
        }
    }
}

impl FromServer<'_> {
    /// Appends the frame.
    pub fn emit(&self, out: &mut impl Sink) {
        match self {
            Self::Info(sealed) => emit(out, kind::SERVER_INFO, &[sealed]),
            Self::Receive { from, packet } => emit(out, kind::RECEIVE, &[&from.0, packet]),
            Self::KeepAlive => emit(out, kind::KEEP_ALIVE, &[]),
            Self::PeerGone(key, why) => emit(out, kind::PEER_GONE, &[&key.0, &[why.code()]]),
            Self::PeerPresent { key, addr: None, .. } => emit(out, kind::PEER_PRESENT, &[&key.0]),
            Self::PeerPresent { key, addr: Some(addr), flags } => {
                let ip = match addr.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                let parts: [&[u8]; 4] = [&key.0, &ip, &addr.port().to_be_bytes(), &[*flags]];
                emit(out, kind::PEER_PRESENT, &parts);
            }
            Self::Ping(data) => emit(out, kind::PING, &[data]),
            Self::Pong(data) => emit(out, kind::PONG, &[data]),
            Self::Health(text) => emit(out, kind::HEALTH, &[text]),
            Self::Restarting { reconnect_in, try_for } => {
                let times = [reconnect_in.to_be_bytes(), try_for.to_be_bytes()];
                emit(out, kind::RESTARTING, &[&times[0], &times[1]]);
            }
        }
    }
}

/// Whether a packet is one of the messages by which nodes find a direct way (tailscale `disco/disco.go`): magic, key
/// and nonce in front. They are few and worth more than others.
#[must_use]
pub fn is_disco(packet: &[u8]) -> bool {
    packet.len() >= 6 + KEY_LEN + crate::naclbox::NONCE_LEN
        && packet.starts_with(b"TS\xf0\x9f\x92\xac")
}

#[cfg(test)]
mod tests;
