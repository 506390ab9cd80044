//! Cuts what the system gives.

use crosspoint_netstack::{
    Packets,
    checksum::{fold, sum},
};

use super::{
    ECN, HEADER, Header, NEEDS_CHECKSUM, NONE, TCP_CHECKSUM, TCP_HEADER, TCP4, TCP6, UDP,
    UDP_CHECKSUM, UDP_HEADER, flag, protocol, pseudo, put, put_length, word,
};

/// What the system gave makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet from the TUN interface")]
pub struct Malformed;

/// Adds the packets of one frame, header in front, to `out`. All checksums are complete then.
///
/// # Errors
/// The frame makes no sense; nothing was added.
pub fn split(frame: &mut [u8], out: &mut Packets) -> Result<(), Malformed> {
    let (head, packet) = frame.split_first_chunk_mut::<HEADER>().ok_or(Malformed)?;
    let head = Header::parse(*head);
    if packet.len() > usize::from(u16::MAX) {
        return Err(Malformed);
    }
    if head.kind & !ECN != NONE {
        return cut(&head, packet, out);
    }
    if head.flags & NEEDS_CHECKSUM != 0 {
        let (start, offset) = (usize::from(head.start), usize::from(head.offset));
        let covered = packet.get_mut(start..).ok_or(Malformed)?;
        word(covered, offset).ok_or(Malformed)?;
        // The sum of the pseudo header stands in the field already.
        let sum = fold(sum(covered));
        put(covered, offset, if sum == 0 && offset == UDP_CHECKSUM { u16::MAX } else { sum });
    }
    if packet.is_empty() {
        return Err(Malformed);
    }
    out.push(packet);
    Ok(())
}

fn cut(head: &Header, packet: &[u8], out: &mut Packets) -> Result<(), Malformed> {
    let (ip, size) = (usize::from(head.start), usize::from(head.size));
    let transport = packet.get(ip..).ok_or(Malformed)?;
    let version = packet.first().map(|byte| byte >> 4);
    let (protocol, field, headers) = match (head.kind & !ECN, version) {
        (TCP4, Some(4)) | (TCP6, Some(6)) => {
            // What the header says of its length may be that of the whole first packet.
            let len = usize::from(transport.get(12).ok_or(Malformed)? >> 4) * 4;
            if len < TCP_HEADER {
                return Err(Malformed);
            }
            (protocol::TCP, TCP_CHECKSUM, ip + len)
        }
        (UDP, Some(4 | 6)) => (protocol::UDP, UDP_CHECKSUM, ip + UDP_HEADER),
        _ => return Err(Malformed),
    };
    let least = if version == Some(4) { 20 } else { 40 };
    if ip < least || size == 0 || packet.len() <= headers {
        return Err(Malformed);
    }
    let (front, payload) = packet.split_at(headers);
    let count = payload.len().div_ceil(size);
    for (number, part) in payload.chunks(size).enumerate() {
        let (first, last) = (number == 0, number + 1 == count);
        out.push_with(headers + part.len(), |segment| {
            segment[..headers].copy_from_slice(front);
            segment[headers..].copy_from_slice(part);
            if version == Some(4) && !first {
                let id = word(front, 4).unwrap_or(0);
                put(segment, 4, id.wrapping_add(u16::try_from(number).unwrap_or(0)));
            }
            put_length(segment, ip);
            let covered = segment.len() - ip;
            let base = pseudo(front, protocol, covered);
            let transport = &mut segment[ip..];
            if protocol == protocol::TCP {
                let flags = transport[13];
                let flags = if first { flags } else { flags & !flag::CWR };
                transport[13] = if last { flags } else { flags & !(flag::FIN | flag::PSH) };
                let sequence = transport[4..8].first_chunk().copied().unwrap_or_default();
                let skipped = u32::try_from(number * size).unwrap_or(0);
                let sequence = u32::from_be_bytes(sequence).wrapping_add(skipped);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            } else {
                put(transport, 4, u16::try_from(covered).unwrap_or(u16::MAX));
            }
            put(transport, field, 0);
            let checksum = fold(base + sum(transport));
            let none = checksum == 0 && protocol == protocol::UDP;
            put(transport, field, if none { u16::MAX } else { checksum });
        });
    }
    Ok(())
}
