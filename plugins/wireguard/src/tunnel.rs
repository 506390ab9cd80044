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

    /// Whether packets were kept that can go now.
    fn has_kept(&self) -> bool;

    /// Encrypts the next packet that was kept for a session, if there is one now.
    fn kept(&mut self, buf: &mut [u8]) -> Step;

    /// What the time makes due: called every [`TICK`].
    fn tick(&mut self, buf: &mut [u8]) -> Step;

    /// Has packets sent after so many seconds of silence.
    fn set_keepalive(&mut self, seconds: Option<u16>);

    /// The peer was found, or found elsewhere: a handshake that it has not answered, or that it should see for its way
    /// to be kept open, is made again without waiting.
    fn found(&mut self, buf: &mut [u8]) -> Step;

    /// How long the peer has left a handshake unanswered.
    fn unanswered(&self) -> Duration;
}

/// How often [`Tunnel::tick`] is called.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// Types of messages, in their first byte.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// boringtun's implementation. Three things are done here: packets that keep the way open, as boringtun gives up for good
/// on a peer that was away for 90 seconds; packets that were kept, which boringtun forgets when the peer's handshake
/// comes before ours is answered; and watching for answers.
pub(crate) struct Boring {
    tunn: Tunn,
    /// Packets were kept.
    kept: bool,
    keepalive: Option<u16>,
    /// Ticks since anything authentic came or went.
    quiet: u32,
    /// Ticks since a handshake of ours was begun that has not been answered.
    asking: Option<u32>,
}

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
        let tunn = Tunn::new(own.clone(), peer, shared, None, index, Some(limiter));
        Self { tunn, kept: false, keepalive, quiet: 0, asking: None }
    }

    fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Sees what goes to the peer.
    fn goes(&mut self, message: &[u8]) {
        self.quiet = 0;
        if message.first() == Some(&INITIATION) {
            self.asking.get_or_insert(0);
        }
    }

    /// Begins a handshake; `again` though one has begun already.
    fn ask(&mut self, buf: &mut [u8], again: bool) -> Step {
        let step = step(self.tunn.format_handshake_initiation(buf, again)).unwrap_or(Step::Done);
        self.watch(step, buf)
    }

    fn watch(&mut self, step: Step, buf: &[u8]) -> Step {
        if let Step::Network(len) = step {
            self.goes(&buf[..len]);
        }
        step
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
        let step = step(self.tunn.encapsulate(packet, buf)).unwrap_or(Step::Done);
        self.kept |= step == Step::Done || buf.first() != Some(&DATA);
        self.watch(step, buf)
    }

    fn open(&mut self, from: IpAddr, message: &[u8], buf: &mut [u8]) -> Result<Step, Refused> {
        let step = step(self.tunn.decapsulate(Some(from), message, buf))?;
        self.quiet = 0;
        // Either of them says that the peer has the keys that we have, unless all that came of it is a cookie.
        let cookie = matches!(step, Step::Network(_)) && buf.first() == Some(&COOKIE);
        if matches!(message.first(), Some(&RESPONSE | &DATA)) && !cookie {
            self.asking = None;
        }
        Ok(self.watch(step, buf))
    }

    fn has_kept(&self) -> bool {
        self.kept && self.has_session()
    }

    fn kept(&mut self, buf: &mut [u8]) -> Step {
        if !self.has_kept() {
            return Step::Done;
        }
        let step = step(self.tunn.decapsulate(None, &[], buf)).unwrap_or(Step::Done);
        self.kept = step != Step::Done;
        self.watch(step, buf)
    }

    fn tick(&mut self, buf: &mut [u8]) -> Step {
        self.quiet = self.quiet.saturating_add(1);
        self.asking = self.asking.map(|ticks| ticks.saturating_add(1));
        let due = match self.tunn.update_timers(buf) {
            // Given up: what was kept is gone.
            TunnResult::Err(_) => {
                (self.kept, self.asking) = (false, None);
                Step::Done
            }
            result => step(result).unwrap_or(Step::Done),
        };
        let limit = self.keepalive.map(|seconds| u32::from(seconds).saturating_mul(PER_SECOND));
        match due {
            Step::Done if limit.is_some_and(|limit| self.quiet >= limit) => {
                if self.has_session() {
                    self.seal(&[], buf)
                } else {
                    self.ask(buf, false)
                }
            }
            due => self.watch(due, buf),
        }
    }

    fn set_keepalive(&mut self, seconds: Option<u16>) {
        self.keepalive = seconds;
    }

    fn found(&mut self, buf: &mut [u8]) -> Step {
        let wanted = self.asking.is_some() || (self.keepalive.is_some() && !self.has_session());
        if wanted { self.ask(buf, true) } else { Step::Done }
    }

    fn unanswered(&self) -> Duration {
        TICK * self.asking.unwrap_or(0)
    }
}

/// Ticks in a second.
const PER_SECOND: u32 = 4;

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
