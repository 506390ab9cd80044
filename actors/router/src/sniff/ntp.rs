//! NTP (RFC 5905 §7.3): client requests of version 3 and 4.

use super::cursor::Cursor;

const HEADER: usize = 48;
const MODE_CLIENT: u8 = 3;
/// 16 seconds as a 16.16 fixed-point number: more root delay or dispersion than that means unsynchronised or not NTP.
const MAX_ROOT: u32 = 16 << 16;

/// Whether a datagram is a client's request.
pub(super) fn sniff(packet: &[u8]) -> bool {
    let mut cursor = Cursor(packet);
    let (Some([flags, _, _, _]), Some(delay), Some(dispersion)) =
        (cursor.array::<4>(), cursor.u32(), cursor.u32())
    else {
        return false;
    };
    packet.len() >= HEADER
        && matches!(flags >> 3 & 7, 3 | 4)
        && flags & 7 == MODE_CLIENT
        && delay <= MAX_ROOT
        && dispersion <= MAX_ROOT
}
