//! BitTorrent: the peer handshake (BEP 3), uTP (BEP 29) and UDP trackers (BEP 15).

use super::cursor::Cursor;
use super::{Outcome, Sniffer};

const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol";
const UTP_HEADER: usize = 20;
const UTP_VERSION: u8 = 1;
/// Highest uTP packet type, ST_SYN.
const UTP_MAX_TYPE: u8 = 4;
/// Highest extension number in use (libutp).
const UTP_MAX_EXTENSION: u8 = 4;
/// The protocol id of a tracker connect request, and its action 0.
const TRACKER_CONNECT: &[u8] = &[0, 0, 0x04, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0];
const TRACKER_CONNECT_LEN: usize = 16;

/// Looks for a peer handshake on a stream.
pub(super) fn stream(buf: &[u8]) -> Outcome {
    if buf.starts_with(HANDSHAKE) {
        Outcome::bare(Sniffer::BitTorrent)
    } else if HANDSHAKE.starts_with(buf) {
        Outcome::NeedMore
    } else {
        Outcome::NoMatch
    }
}

/// Whether a datagram is uTP: version, type, and a chain of extensions that stays within bounds.
///
/// As in the reference the number of the first extension is free, and the last extension may claim more than there is.
pub(super) fn utp(packet: &[u8]) -> bool {
    let Some((header, rest)) = packet.split_first_chunk::<UTP_HEADER>() else {
        return false;
    };
    let [kind, mut extension, ..] = *header;
    if kind & 0x0f != UTP_VERSION || kind >> 4 > UTP_MAX_TYPE {
        return false;
    }
    let mut cursor = Cursor(rest);
    while extension != 0 {
        let (Some(next), Some(len)) = (cursor.u8(), cursor.u8()) else {
            return false;
        };
        if next > UTP_MAX_EXTENSION {
            return false;
        }
        if cursor.take(usize::from(len)).is_none() {
            cursor.0 = &[];
        }
        extension = next;
    }
    true
}

/// Whether a datagram is a connect request to a UDP tracker.
pub(super) fn udp_tracker(packet: &[u8]) -> bool {
    packet.len() >= TRACKER_CONNECT_LEN && packet.starts_with(TRACKER_CONNECT)
}
