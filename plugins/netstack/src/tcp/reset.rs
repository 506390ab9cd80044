//! The answer to segments of connections that there are not (RFC 9293 §3.5.2).

use super::{ACK, FIN, Head, Key, RST, SYN};
use crate::{checksum, ip, packets::Packets};

/// Writes the reset that answers a segment. Nothing answers a reset.
pub(crate) fn emit(out: &mut Packets, key: Key, head: &Head, mtu: usize) {
    if head.flags & RST != 0 {
        return;
    }
    let taken = u32::try_from(head.len).unwrap_or(0)
        + u32::from(head.flags & SYN != 0)
        + u32::from(head.flags & FIN != 0);
    let (seq, ack, flags) = if head.flags & ACK != 0 {
        (head.ack, 0, RST)
    } else {
        (0, head.seq.wrapping_add(taken), RST | ACK)
    };
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&head.dst.to_be_bytes());
    segment[2..4].copy_from_slice(&head.src.to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    let ends = (key.local.ip(), key.remote.ip());
    let sum = checksum::of_transport(ends.0, ends.1, ip::protocol::TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip::emit(out, ends, ip::protocol::TCP, &segment, mtu, 0);
}
