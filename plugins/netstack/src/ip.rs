//! IP headers: what of a packet decides where it goes, and packets of our own (RFC 791, RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{checksum, packets::Packets};

/// Protocol numbers of IANA.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// Extension headers of IPv6 that may stand in front of the payload.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Hops that our packets may take, as Linux and gVisor have it.
const HOPS: u8 = 64;

/// A packet, as far as it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol of the payload (IANA number).
    pub protocol: u8,
    /// What is behind the headers.
    pub payload: &'a [u8],
    /// Which part of a larger packet this is, if it is one.
    pub fragment: Option<Fragment>,
}

/// A part of a larger packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The number that all parts have in common.
    pub id: u32,
    /// Where the part begins, in bytes.
    pub offset: usize,
    /// Whether it is not the last one.
    pub more: bool,
}

/// Reads the headers of a packet; `None` if it is none, or cut off.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Ip<'_>> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

/// Where a packet is going; `None` if it is none.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Ip<'_>> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if len < 20 {
        return None;
    }
    let payload = packet.get(len..total)?;
    let word = u16::from_be_bytes([header[6], header[7]]);
    let (offset, more) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    Some(Ip {
        src: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        dst: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        protocol: header[9],
        payload,
        fragment: (more || offset > 0).then_some(Fragment { id, offset, more }),
    })
}

fn parse_v6(packet: &[u8]) -> Option<Ip<'_>> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut payload = packet.get(40..40 + len)?;
    let mut protocol = header[6];
    let mut fragment = None;
    loop {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let head: &[u8; 2] = payload.first_chunk()?;
                protocol = head[0];
                payload = payload.get(usize::from(head[1]) * 8 + 8..)?;
            }
            FRAGMENT => {
                let head: &[u8; 8] = payload.first_chunk()?;
                protocol = head[0];
                let word = u16::from_be_bytes([head[2], head[3]]);
                let (offset, more) = (usize::from(word & 0xfff8), word & 1 != 0);
                let id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                payload = &payload[8..];
                // One that has only one part is whole (RFC 6946).
                if more || offset > 0 {
                    fragment = Some(Fragment { id, offset, more });
                    break;
                }
            }
            _ => break,
        }
    }
    let address = |at: usize| -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?))
    };
    Some(Ip { src: address(8)?.into(), dst: address(24)?.into(), protocol, payload, fragment })
}

/// Writes a packet with that payload, in fragments if it is larger than `mtu`. `id` tells fragments of different
/// packets apart. Addresses of two families make nothing.
pub fn emit(
    out: &mut Packets,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    payload: &[u8],
    mtu: usize,
    id: u32,
) {
    emit_parts(out, (src, dst), protocol, [payload, &[]], mtu, id);
}

/// The same with a payload that lies in two pieces.
pub(crate) fn emit_parts(
    out: &mut Packets,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    [head, rest]: [&[u8]; 2],
    mtu: usize,
    id: u32,
) {
    let headers = if src.is_ipv4() { 20 } else { 40 };
    if !rest.is_empty() && headers + head.len() + rest.len() > mtu {
        // What is to be cut has to be one piece.
        let whole = [head, rest].concat();
        return emit_parts(out, (src, dst), protocol, [&whole, &[]], mtu, id);
    }
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let room = mtu.saturating_sub(20).max(8);
            parts(head, room, room & !7, |part, offset, more, whole| {
                out.push_with(20 + part.len() + rest.len(), |packet| {
                    packet[0] = 0x45;
                    let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
                    packet[2..4].copy_from_slice(&total.to_be_bytes());
                    let id = u16::try_from(id & 0xffff).unwrap_or(0);
                    packet[4..6].copy_from_slice(&id.to_be_bytes());
                    let word = u16::try_from(offset / 8).unwrap_or(0) | u16::from(more) << 13;
                    // What is whole must not be cut on the way: a tunnel has one MTU.
                    let word = if whole { 0x4000 } else { word };
                    packet[6..8].copy_from_slice(&word.to_be_bytes());
                    packet[8] = HOPS;
                    packet[9] = protocol;
                    packet[12..16].copy_from_slice(&src.octets());
                    packet[16..20].copy_from_slice(&dst.octets());
                    let sum = checksum::of(&packet[..20]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                    packet[20..20 + part.len()].copy_from_slice(part);
                    packet[20 + part.len()..].copy_from_slice(rest);
                });
            });
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let room = mtu.saturating_sub(40).max(16);
            parts(head, room, (room - 8) & !7, |part, offset, more, whole| {
                let extra = if whole { 0 } else { 8 };
                out.push_with(40 + extra + part.len() + rest.len(), |packet| {
                    packet[0] = 0x60;
                    let len = u16::try_from(packet.len() - 40).unwrap_or(u16::MAX);
                    packet[4..6].copy_from_slice(&len.to_be_bytes());
                    packet[6] = if whole { protocol } else { FRAGMENT };
                    packet[7] = HOPS;
                    packet[8..24].copy_from_slice(&src.octets());
                    packet[24..40].copy_from_slice(&dst.octets());
                    if !whole {
                        packet[40] = protocol;
                        let word = u16::try_from(offset).unwrap_or(0) | u16::from(more);
                        packet[42..44].copy_from_slice(&word.to_be_bytes());
                        packet[44..48].copy_from_slice(&id.to_be_bytes());
                    }
                    let payload = &mut packet[40 + extra..];
                    payload[..part.len()].copy_from_slice(part);
                    payload[part.len()..].copy_from_slice(rest);
                });
            });
        }
        _ => {}
    }
}

/// Cuts a payload: whole if it fits into `room`, otherwise in parts of `step` bytes.
fn parts(payload: &[u8], room: usize, step: usize, mut each: impl FnMut(&[u8], usize, bool, bool)) {
    if payload.len() <= room {
        return each(payload, 0, false, true);
    }
    let mut offset = 0;
    for part in payload.chunks(step) {
        each(part, offset, offset + part.len() < payload.len(), false);
        offset += part.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(v6: bool) -> (IpAddr, IpAddr) {
        if v6 {
            (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).into())
        } else {
            (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 9, 8, 7).into())
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            v6: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..9000),
            mtu in 576_usize..1500,
            id: u32,
        ) {
            let mut out = Packets::new();
            emit(&mut out, ends(v6), protocol::UDP, &payload, mtu, id);
            let mut whole = Vec::new();
            for (index, packet) in out.iter().enumerate() {
                prop_assert!(packet.len() <= mtu);
                let ip = parse(packet).expect("a packet");
                prop_assert_eq!((ip.src, ip.dst, ip.protocol), (ends(v6).0, ends(v6).1, protocol::UDP));
                match ip.fragment {
                    None => prop_assert_eq!(out.len(), 1),
                    Some(fragment) => {
                        let id = if v6 { id } else { id & 0xffff };
                        let more = index + 1 < out.len();
                        prop_assert_eq!(fragment, Fragment { id, offset: whole.len(), more });
                    }
                }
                whole.extend_from_slice(ip.payload);
                if !v6 {
                    prop_assert_eq!(checksum::of(&packet[..20]), 0);
                }
            }
            prop_assert_eq!(whole, payload);
        }

        #[test]
        fn nonsense_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
