//! RDP: the X.224 connection request with an RDP negotiation request (MS-RDPBCGR §2.2.1.1) and no cookie.

use super::{Outcome, Sniffer};

/// Offset and value of every byte that is fixed: TPKT version, reserved and length 19; X.224 length 14 and type
/// connection request; negotiation request type 1 and the low byte of its length 8. The addresses of X.224 (6..11) and the
/// flags (12) are free.
const FIXED: [(usize, u8); 8] =
    [(0, 0x03), (1, 0x00), (2, 0x00), (3, 19), (4, 14), (5, 0xe0), (11, 0x01), (13, 0x08)];

/// Looks for a connection request.
pub(super) fn sniff(buf: &[u8]) -> Outcome {
    for (at, value) in FIXED {
        match buf.get(at) {
            Some(byte) if *byte == value => {}
            Some(_) => return Outcome::NoMatch,
            None => return Outcome::NeedMore,
        }
    }
    Outcome::bare(Sniffer::Rdp)
}
