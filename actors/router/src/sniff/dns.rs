//! DNS queries (RFC 1035 §4), in datagrams and with the length prefix of streams.

use super::cursor::Cursor;
use super::{Outcome, Sniffer};

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
/// Longest name on the wire.
const MAX_NAME: usize = 255;

/// What a datagram is to DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A query: not a response, at least one question, no answers and no authority records.
    Query,
    /// A DNS message as far as its layout goes, but not a query.
    Other,
    /// No DNS message.
    Not,
}

/// Looks for a query on a stream.
pub(super) fn stream(buf: &[u8]) -> Outcome {
    let [high, low, packet @ ..] = buf else {
        return Outcome::NeedMore;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len < HEADER {
        return Outcome::NoMatch;
    }
    // Judge the header as far as it is there, so that other protocols need not wait for `len` bytes.
    let set = |at: usize| packet.get(at).is_some_and(|byte| *byte != 0);
    let is_response = packet.get(2).is_some_and(|flags| flags & RESPONSE != 0);
    let no_questions = packet.get(4..6).is_some_and(|count| count == [0, 0]);
    if is_response || no_questions || (6..10).any(set) {
        return Outcome::NoMatch;
    }
    match packet.get(..len) {
        None => Outcome::NeedMore,
        Some(packet) if self::packet(packet) == Message::Query => Outcome::bare(Sniffer::Dns),
        Some(_) => Outcome::NoMatch,
    }
}

/// Judges a datagram.
///
/// As in the reference a message may end before all the records its header counts, at the border of a record; bytes behind
/// the last record are let pass. Unlike there, an answer or authority *count* is enough for not being a query.
pub(super) fn packet(packet: &[u8]) -> Message {
    let mut cursor = Cursor(packet);
    let (Some(_id), Some([flags, _]), Some(questions)) =
        (cursor.u16(), cursor.array::<2>(), cursor.u16())
    else {
        return Message::Not;
    };
    let (Some(answers), Some(authorities), Some(additional)) =
        (cursor.u16(), cursor.u16(), cursor.u16())
    else {
        return Message::Not;
    };
    let mut asked = false;
    for _ in 0..questions {
        if cursor.0.is_empty() {
            break;
        }
        if name(packet, &mut cursor).is_none() || cursor.take(4).is_none() {
            return Message::Not;
        }
        asked = true;
    }
    let records = u32::from(answers) + u32::from(authorities) + u32::from(additional);
    for _ in 0..records {
        if cursor.0.is_empty() {
            break;
        }
        if record(packet, &mut cursor).is_none() {
            return Message::Not;
        }
    }
    if flags & RESPONSE == 0 && asked && answers == 0 && authorities == 0 {
        Message::Query
    } else {
        Message::Other
    }
}

/// Passes a resource record: name, type, class, TTL, data.
fn record(packet: &[u8], cursor: &mut Cursor<'_>) -> Option<()> {
    name(packet, cursor)?;
    cursor.take(8)?;
    cursor.prefixed16().map(drop)
}

/// Passes a name. A compression pointer must point back into the message, which ends the name.
fn name(packet: &[u8], cursor: &mut Cursor<'_>) -> Option<()> {
    let mut total = 0;
    loop {
        let at = packet.len() - cursor.0.len();
        let len = cursor.u8()?;
        match len >> 6 {
            0 if len == 0 => return Some(()),
            0 => {
                cursor.take(usize::from(len))?;
                total += usize::from(len) + 1;
                if total >= MAX_NAME {
                    return None;
                }
            }
            3 => {
                let target = usize::from(u16::from_be_bytes([len & 0x3f, cursor.u8()?]));
                return (HEADER..at).contains(&target).then_some(());
            }
            _ => return None,
        }
    }
}
