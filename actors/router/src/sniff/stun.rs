//! STUN (RFC 5389 §6): magic cookie, and a length that fits the datagram.

use super::cursor::Cursor;

const HEADER: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_a442;

/// Whether a datagram is a STUN message.
pub(super) fn sniff(packet: &[u8]) -> bool {
    let mut cursor = Cursor(packet);
    let (Some(_kind), Some(len), Some(cookie)) = (cursor.u16(), cursor.u16(), cursor.u32()) else {
        return false;
    };
    cookie == MAGIC_COOKIE && packet.len() >= HEADER + usize::from(len)
}
