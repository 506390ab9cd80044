//! Long-header packets (RFC 9000 §17.2), one after the other in a datagram.

use crate::sniff::cursor::Cursor;

/// Longest connection id of the versions read here.
const MAX_CID: usize = 20;

/// The versions whose Initial packets can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Draft 29 (0xff00001d).
    Draft29,
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
}

impl Version {
    fn parse(number: u32) -> Option<Self> {
        match number {
            0xff00_001d => Some(Self::Draft29),
            0x0000_0001 => Some(Self::V1),
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }
}

/// An Initial packet, still protected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    pub(super) dcid: &'a [u8],
    /// The packet alone, from its first byte to the end of its payload.
    pub(super) bytes: &'a [u8],
    /// Where the packet number starts in `bytes`.
    pub(super) number_at: usize,
}

/// One packet of a datagram.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Initial(Initial<'a>),
    /// 0-RTT or Handshake.
    Other,
}

/// What comes next in a datagram.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A packet, and what follows it.
    Packet(Packet<'a>, &'a [u8]),
    /// The datagram is used up.
    End,
    /// No long-header packet of a known version, or one that runs over the end. Datagram padding is this as well.
    Invalid,
}

/// Reads the packet at the start of `datagram`.
pub(super) fn next(datagram: &[u8]) -> Step<'_> {
    if datagram.is_empty() {
        return Step::End;
    }
    parse(datagram).map_or(Step::Invalid, |(packet, rest)| Step::Packet(packet, rest))
}

fn parse(datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let mut cursor = Cursor(datagram);
    let first = cursor.u8()?;
    // Long header and fixed bit.
    if first & 0xc0 != 0xc0 {
        return None;
    }
    let version = Version::parse(cursor.u32()?)?;
    // Version 2 rotates the packet types (RFC 9369 §3.2): Initial is 1 instead of 0, Retry 0 instead of 3.
    let (initial, retry) = match version {
        Version::V2 => (1, 0),
        Version::V1 | Version::Draft29 => (0, 3),
    };
    let kind = first >> 4 & 3;
    if kind == retry {
        return None;
    }
    let dcid = cursor.prefixed8()?;
    let scid = cursor.prefixed8()?;
    if dcid.is_empty() || dcid.len() > MAX_CID || scid.len() > MAX_CID {
        return None;
    }
    if kind == initial {
        let token = cursor.varint_len()?;
        cursor.take(token)?;
    }
    let len = cursor.varint_len()?;
    let number_at = datagram.len() - cursor.0.len();
    let (bytes, rest) = datagram.split_at_checked(number_at.checked_add(len)?)?;
    let packet = if kind == initial {
        Packet::Initial(Initial { version, dcid, bytes, number_at })
    } else {
        Packet::Other
    };
    Some((packet, rest))
}
