//! TLS on a stream: the ClientHello, whole or spread over several records (RFC 8446 §5.1).

use super::hello::{CLIENT_HELLO, HANDSHAKE_HEADER, Hello, domain};
use super::{Outcome, Sniffed, Sniffer};

const HANDSHAKE: u8 = 22;
const RECORD_HEADER: usize = 5;
/// Most plaintext one record may carry.
const MAX_RECORD: usize = 1 << 14;
/// Longest handshake message taken, as in Go's TLS server.
const MAX_HANDSHAKE: usize = 1 << 16;

/// Looks for a ClientHello at the start of `buf`.
pub(super) fn sniff(buf: &[u8]) -> Outcome {
    let (payload, rest) = match record(buf) {
        Record::Whole(payload, rest) => (payload, rest),
        // The first bytes of the message show early whether it is worth waiting for the rest.
        Record::Partial => match message_len(buf.get(RECORD_HEADER..).unwrap_or_default()) {
            Length::Invalid => return Outcome::NoMatch,
            Length::Known(_) | Length::Unknown => return Outcome::NeedMore,
        },
        Record::Invalid => return Outcome::NoMatch,
    };
    match message_len(payload) {
        Length::Known(len) if payload.len() >= len => judge(payload.get(HANDSHAKE_HEADER..len)),
        Length::Invalid => Outcome::NoMatch,
        Length::Known(_) | Length::Unknown => fragmented(payload, rest),
    }
}

/// Puts a ClientHello together that goes on in the records after the first.
#[cold]
fn fragmented(first: &[u8], mut rest: &[u8]) -> Outcome {
    // What is gathered is a part of `buf`, so it is bounded by the caller's buffer as well as by MAX_HANDSHAKE.
    let mut message = first.to_vec();
    loop {
        match message_len(&message) {
            Length::Known(len) if message.len() >= len => {
                return judge(message.get(HANDSHAKE_HEADER..len));
            }
            Length::Invalid => return Outcome::NoMatch,
            Length::Known(_) | Length::Unknown => {}
        }
        match record(rest) {
            Record::Whole(payload, next) => {
                message.extend_from_slice(payload);
                rest = next;
            }
            Record::Partial => return Outcome::NeedMore,
            Record::Invalid => return Outcome::NoMatch,
        }
    }
}

fn judge(body: Option<&[u8]>) -> Outcome {
    let Some(hello) = body.and_then(Hello::parse) else {
        return Outcome::NoMatch;
    };
    // RFC 6066 §3: without a trailing dot. Servers refuse such a hello, so it is not taken for one.
    if hello.server_name.is_some_and(|name| name.ends_with(b".")) {
        return Outcome::NoMatch;
    }
    Outcome::Match(Sniffed { domain: domain(hello.server_name), ..Sniffed::bare(Sniffer::Tls) })
}

enum Record<'a> {
    /// Payload of a handshake record, and what follows it.
    Whole(&'a [u8], &'a [u8]),
    Partial,
    Invalid,
}

fn record(buf: &[u8]) -> Record<'_> {
    match buf {
        [] => Record::Partial,
        // The version of the first record says little; Go takes anything below 16.0 and so do we.
        [HANDSHAKE, major, ..] if *major >= 0x10 => Record::Invalid,
        [HANDSHAKE, _, _, high, low, body @ ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if len == 0 || len > MAX_RECORD {
                return Record::Invalid;
            }
            if body.len() < len {
                return Record::Partial;
            }
            let (payload, rest) = body.split_at(len);
            Record::Whole(payload, rest)
        }
        [HANDSHAKE, ..] => Record::Partial, // less than a header
        _ => Record::Invalid,
    }
}

enum Length {
    /// Header and body together.
    Known(usize),
    Unknown,
    Invalid,
}

fn message_len(message: &[u8]) -> Length {
    match message {
        [CLIENT_HELLO, a, b, c, ..] => {
            let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if len > MAX_HANDSHAKE {
                Length::Invalid
            } else {
                Length::Known(HANDSHAKE_HEADER + len)
            }
        }
        [] | [CLIENT_HELLO, ..] => Length::Unknown,
        _ => Length::Invalid,
    }
}
