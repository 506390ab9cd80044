//! The protocol towards one peer (<https://www.wireguard.com/protocol/>).

use std::{net::IpAddr, sync::Arc, time::Duration};

use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};

use crate::keys::Key;

/// Bytes that a message has more than the packet in it (header and tag).
pub(crate) const OVERHEAD: usize = 32;
/// Largest message of a handshake.
pub(crate) const HANDSHAKE: usize = 148;

/// What came of a step. The bytes lie at the beginning of the buffer that was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to send and nothing received.
    Done,
    /// That many bytes are for the peer.
    Network(usize),
    /// That many bytes are a packet from the peer, with that source.
    Inside(usize, IpAddr),
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(&'static str);

/// The state of the protocol towards one peer.
pub(crate) trait Tunnel: Send {
    /// Encrypts a packet into `buf`, which has room for [`OVERHEAD`] more and for [`HANDSHAKE`]. Without a session the
    /// packet is kept, and the handshake is what goes.
    fn seal(&mut self, packet: &[u8], buf: &mut [u8]) -> Step;

    /// Takes a message into `buf`, which is as large.
    ///
    /// # Errors
    /// It is not authentic, is a replay, or does not belong to this peer.
    fn open(&mut self, from: IpAddr, message: &[u8], buf: &mut [u8]) -> Result<Step, Refused>;

    /// Encrypts the next packet that was kept for a session.
    fn kept(&mut self, buf: &mut [u8]) -> Step;

    /// What the time makes due: called a few times a second.
    fn tick(&mut self, buf: &mut [u8]) -> Step;

    /// How long ago the last handshake was; `None` if there is no session.
    fn handshake_age(&self) -> Option<Duration>;
}

/// boringtun's implementation.
pub(crate) struct Boring(Tunn);

impl Boring {
    /// A tunnel to the peer of that key. `index` tells our peers apart in messages.
    pub(crate) fn new(
        own: &StaticSecret,
        peer: Key,
        shared: Option<Key>,
        keepalive: Option<u16>,
        index: u32,
        limiter: Arc<RateLimiter>,
    ) -> Self {
        let peer = PublicKey::from(peer);
        Self(Tunn::new(own.clone(), peer, shared, keepalive, index, Some(limiter)))
    }
}

fn step(result: TunnResult<'_>) -> Result<Step, Refused> {
    Ok(match result {
        TunnResult::Done => Step::Done,
        TunnResult::WriteToNetwork(bytes) => Step::Network(bytes.len()),
        TunnResult::WriteToTunnelV4(bytes, from) => Step::Inside(bytes.len(), from.into()),
        TunnResult::WriteToTunnelV6(bytes, from) => Step::Inside(bytes.len(), from.into()),
        TunnResult::Err(error) => return Err(Refused(reason(&error))),
    })
}

impl Tunnel for Boring {
    fn seal(&mut self, packet: &[u8], buf: &mut [u8]) -> Step {
        step(self.0.encapsulate(packet, buf)).unwrap_or(Step::Done)
    }

    fn open(&mut self, from: IpAddr, message: &[u8], buf: &mut [u8]) -> Result<Step, Refused> {
        step(self.0.decapsulate(Some(from), message, buf))
    }

    fn kept(&mut self, buf: &mut [u8]) -> Step {
        step(self.0.decapsulate(None, &[], buf)).unwrap_or(Step::Done)
    }

    fn tick(&mut self, buf: &mut [u8]) -> Step {
        // Errors are those of a handshake that nobody answered: it is tried again with the next packet.
        step(self.0.update_timers(buf)).unwrap_or(Step::Done)
    }

    fn handshake_age(&self) -> Option<Duration> {
        self.0.time_since_last_handshake()
    }
}

fn reason(error: &WireGuardError) -> &'static str {
    match error {
        WireGuardError::InvalidMac => "wrong message authentication code",
        WireGuardError::WrongKey => "wrong key",
        WireGuardError::WrongIndex | WireGuardError::NoCurrentSession => "no such session",
        WireGuardError::WrongTai64nTimestamp => "replayed handshake",
        WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => "replayed packet",
        WireGuardError::InvalidAeadTag => "not authentic",
        WireGuardError::ConnectionExpired => "no answer to handshakes",
        WireGuardError::UnderLoad => "too many handshakes",
        _ => "malformed message",
    }
}
