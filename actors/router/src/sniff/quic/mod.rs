//! QUIC: the ClientHello inside a client's Initial packets (RFC 9000, 9001, 9369, draft-29).
//!
//! Initial packets are protected with keys that anybody can derive from the connection id in them. A ClientHello may be cut into
//! CRYPTO frames in any order, over several packets and datagrams: [`Assembly`] keeps what came so far.

mod fingerprint;
mod frames;
mod packet;
mod protection;
mod reassembly;

use super::hello::{HANDSHAKE_HEADER, Hello, domain};
use super::{Outcome, Sniffed, Sniffer};
use frames::Frames;
use packet::{Initial, Packet, Step};
use protection::InitialKeys;
use reassembly::{CryptoStream, Progress};

/// Datagrams, the first included, after which an incomplete ClientHello is given up.
const MAX_DATAGRAMS: u8 = 16;

/// The answer for the first datagram of a flow.
#[derive(Debug)]
pub(super) enum First {
    Match(Sniffed),
    NeedMore(Box<Assembly>),
    NoMatch,
}

/// What is known when the ClientHello cannot be had: `quic`, by Chromium, the client that is known to split it.
pub(super) fn unfinished() -> Sniffed {
    Sniffed { client: Some("chromium".into()), ..Sniffed::bare(Sniffer::Quic) }
}

/// Judges the first datagram of a flow.
pub(super) fn first(datagram: &[u8]) -> First {
    let Step::Packet(Packet::Initial(initial), rest) = packet::next(datagram) else {
        return First::NoMatch;
    };
    let Some(keys) = InitialKeys::derive(initial.version, initial.dcid) else {
        return First::NoMatch;
    };
    let Some(plain) = keys.open(&initial) else {
        return First::NoMatch;
    };
    let Some(frames) = Frames::parse(&plain) else {
        return First::NoMatch;
    };
    if let Some(message) = frames.whole_hello() {
        return First::Match(judge_alone(message, &frames));
    }
    let mut assembly = Box::new(Assembly { keys, stream: CryptoStream::new(), datagrams: 1 });
    match assembly.stream.add(&frames) {
        Progress::Complete(message) => return First::Match(judge_alone(message, &frames)),
        Progress::Failed => return First::Match(unfinished()),
        Progress::Partial => {}
    }
    match assembly.drain(rest) {
        Outcome::Match(sniffed) => First::Match(sniffed),
        Outcome::NeedMore | Outcome::NoMatch => First::NeedMore(assembly),
    }
}

/// A ClientHello that came in one packet, whose layout tells the client.
fn judge_alone(message: &[u8], frames: &Frames<'_>) -> Sniffed {
    match parse(message) {
        Some(hello) => Sniffed {
            domain: domain(hello.server_name),
            client: Some(fingerprint::client(&hello, frames.layout()).into()),
            ..Sniffed::bare(Sniffer::Quic)
        },
        None => unfinished(),
    }
}

/// A ClientHello that came in several packets: that alone passes for Chromium.
fn judge_split(message: &[u8]) -> Sniffed {
    Sniffed { domain: parse(message).and_then(|hello| domain(hello.server_name)), ..unfinished() }
}

fn parse(message: &[u8]) -> Option<Hello<'_>> {
    Hello::parse(message.get(HANDSHAKE_HEADER..)?)
}

/// A ClientHello of which a part is missing.
#[derive(Debug)]
pub(super) struct Assembly {
    keys: InitialKeys,
    stream: CryptoStream,
    datagrams: u8,
}

impl Assembly {
    /// Takes a further datagram of the flow; never answers [`Outcome::NoMatch`].
    pub(super) fn push(&mut self, datagram: &[u8]) -> Outcome {
        self.datagrams = self.datagrams.saturating_add(1);
        // Something else than QUIC, or a short header, means that no more Initial packets come.
        if self.datagrams > MAX_DATAGRAMS || matches!(packet::next(datagram), Step::Invalid) {
            return Outcome::Match(unfinished());
        }
        self.drain(datagram)
    }

    /// Reads all packets of a datagram, or what is left of it.
    fn drain(&mut self, mut rest: &[u8]) -> Outcome {
        while let Step::Packet(packet, next) = packet::next(rest) {
            rest = next;
            let Packet::Initial(initial) = packet else {
                continue; // 0-RTT data between the pieces
            };
            if let Some(sniffed) = self.take(&initial) {
                return Outcome::Match(sniffed);
            }
        }
        Outcome::NeedMore
    }

    /// Takes one Initial packet; answers when the message is whole or hopeless.
    fn take(&mut self, initial: &Initial<'_>) -> Option<Sniffed> {
        if !self.keys.are_for(initial) {
            // Another connection, or the same one after a Retry: it starts its ClientHello over.
            let keys = InitialKeys::derive(initial.version, initial.dcid)?;
            let plain = keys.open(initial)?;
            let frames = Frames::parse(&plain)?;
            self.keys = keys;
            self.stream.clear();
            return Self::progress(&mut self.stream, &frames);
        }
        let plain = self.keys.open(initial)?;
        Self::progress(&mut self.stream, &Frames::parse(&plain)?)
    }

    fn progress(stream: &mut CryptoStream, frames: &Frames<'_>) -> Option<Sniffed> {
        match stream.add(frames) {
            Progress::Complete(message) => Some(judge_split(message)),
            Progress::Failed => Some(unfinished()),
            Progress::Partial => None,
        }
    }
}
