//! Segmentation: smoltcp writes segments of up to 60 KB, which are cut here into packets that fit into the tunnel. So its
//! work, and that of whoever called it, is done once for some forty packets.

use crate::{
    checksum,
    ip::protocol,
    packets::Packets,
    tcp::{ACK, FIN, PSH, SYN},
};

/// Most bytes of packets that one segment is cut into: with what a tunnel adds, they leave in one segmented send.
const LARGEST: usize = 61_440;
/// Longest headers: IPv6, and TCP with options.
const HEADERS: usize = 40 + 60;

/// Size of a whole segment with headers of `headers` bytes, of which every part is as long as a packet of `mtu` bytes may be.
pub(super) fn largest(mtu: usize, headers: usize) -> usize {
    let most = mtu.saturating_sub(headers).max(1);
    headers + (LARGEST / mtu.max(1)).max(1) * most
}

/// Adds packets: `fill` writes a segment of `len` bytes with its headers, without checksums, whose payload is cut in parts of
/// `size` bytes. Returns what `fill` does, and the acknowledgement that the segment carries.
pub(super) fn emit<R>(
    out: &mut Packets,
    len: usize,
    size: Option<usize>,
    mtu: usize,
    fill: impl FnOnce(&mut [u8]) -> R,
) -> (R, Option<u32>) {
    // The headers of all parts but one come in addition; the payloads move to the front.
    let step = size.unwrap_or(usize::MAX).min(mtu.saturating_sub(HEADERS)).max(1);
    let parts = if size.is_none() && len <= mtu { 1 } else { len.div_ceil(step) };
    let size = size.unwrap_or(usize::MAX);
    let at = (parts - 1) * HEADERS;
    let mut ack = None;
    let result = out.push_cut((at, len), fill, |bytes, each| {
        if let Some(headers) = Headers::of(&bytes[at..], mtu) {
            ack = headers.ack();
            cut(bytes, at, &headers, size.min(mtu.saturating_sub(headers.len)).max(1), each);
        }
    });
    (result, ack)
}

/// Cuts the segment that begins at `at`; puts the packets one behind the other at the beginning.
fn cut(bytes: &mut [u8], at: usize, headers: &Headers, size: usize, each: &mut dyn FnMut(usize)) {
    let mut from = at + headers.len;
    let mut to = 0;
    let mut offset = 0;
    loop {
        let left = bytes.len() - from;
        let len = left.min(size);
        if at > 0 {
            bytes.copy_within(from..from + len, to + headers.len);
        }
        let last = len == left;
        headers.write(&mut bytes[to..to + headers.len + len], offset, last);
        each(headers.len + len);
        from += len;
        to += headers.len + len;
        offset += len;
        if last {
            return;
        }
    }
}

/// The headers of a segment, as the parts of it have them.
struct Headers {
    bytes: [u8; HEADERS],
    len: usize,
    /// Length of the IP header.
    ip: usize,
    /// The sum of the addresses and the protocol, which is in the checksum of each part.
    ends: u64,
}

impl Headers {
    fn of(packet: &[u8], mtu: usize) -> Option<Self> {
        let (ip, addresses) = match packet.first()? >> 4 {
            4 => (20, 12..20),
            _ => (40, 8..40),
        };
        let len = ip + usize::from(packet.get(ip + 12)? >> 4) * 4;
        let mut bytes = [0; HEADERS];
        bytes.get_mut(..len)?.copy_from_slice(packet.get(..len)?);
        if bytes[ip + 13] & SYN != 0 {
            clamp(&mut bytes[ip + 20..len], mtu.saturating_sub(ip + 20));
        }
        let ends = checksum::sum(packet.get(addresses)?) + u64::from(protocol::TCP);
        Some(Self { bytes, len, ip, ends })
    }

    fn ack(&self) -> Option<u32> {
        let tcp = self.bytes.get(self.ip..)?;
        let ack = u32::from_be_bytes(*tcp.get(8..)?.first_chunk()?);
        (tcp.get(13)? & ACK != 0).then_some(ack)
    }

    /// Writes the headers of the part of the payload that begins at `offset`.
    fn write(&self, packet: &mut [u8], offset: usize, last: bool) {
        packet[..self.len].copy_from_slice(&self.bytes[..self.len]);
        let word = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        let total = packet.len();
        if self.ip == 20 {
            packet[2..4].copy_from_slice(&word(total));
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&word(total - 40));
        }
        let segment = &mut packet[self.ip..];
        if let Some(seq) = segment.get_mut(4..8)
            && let Ok(first) = <[u8; 4]>::try_from(&*seq)
        {
            let number = u32::from_be_bytes(first);
            let number = number.wrapping_add(u32::try_from(offset).unwrap_or(0));
            seq.copy_from_slice(&number.to_be_bytes());
        }
        if !last {
            segment[13] &= !(FIN | PSH);
        }
        segment[16..18].fill(0);
        let sum = checksum::fold(self.ends + segment.len() as u64 + checksum::sum(segment));
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Lowers the segment size in options of TCP to `most`.
fn clamp(mut options: &mut [u8], most: usize) {
    while let [kind, behind @ ..] = options {
        options = match (kind, behind) {
            (0, _) => return,
            (1, behind) => behind,
            (2, [4, high, low, ..]) => {
                let most = u16::try_from(most).unwrap_or(u16::MAX);
                [*high, *low] = u16::from_be_bytes([*high, *low]).min(most).to_be_bytes();
                return;
            }
            (_, behind) => {
                let len = behind.first().map_or(0, |len| usize::from(*len)).saturating_sub(1);
                match behind.get_mut(len.max(1)..) {
                    Some(rest) => rest,
                    None => return,
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ip, tcp::Head};

    fn segment(v6: bool, options: usize, payload: &[u8], flags: u8) -> Vec<u8> {
        let mut tcp = vec![0; 20 + options * 4];
        tcp[..4].copy_from_slice(&[0, 80, 0x30, 0x39]);
        tcp[4..8].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
        tcp[12] = u8::try_from(5 + options).expect("small") << 4;
        tcp[13] = flags;
        tcp[20..].fill(1);
        tcp.extend_from_slice(payload);
        let ends = if v6 {
            ("fd00::1".parse().expect("an address"), "fd00::2".parse().expect("an address"))
        } else {
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        };
        let mut out = Packets::new();
        ip::emit(&mut out, ends, protocol::TCP, &tcp, 70_000, 0);
        out.iter().next().expect("one").to_vec()
    }

    proptest! {
        #[test]
        fn parts_make_the_whole(
            v6: bool,
            options in 0_usize..10,
            payload in proptest::collection::vec(any::<u8>(), 1..5000),
            size in 64_usize..1400,
            before in 0_usize..2,
        ) {
            let whole = segment(v6, options, &payload, 0x19);
            let mut out = Packets::new();
            (0..before).for_each(|_| out.push(&[7; 33]));
            emit(&mut out, whole.len(), Some(size), 1500, |room| room.copy_from_slice(&whole));
            prop_assert_eq!(out.len(), before + payload.len().div_ceil(size));
            let mut seq = 0xffff_fff0_u32;
            let mut joined = Vec::new();
            for (at, packet) in out.iter().enumerate().skip(before) {
                let ip = ip::parse(packet).expect("a packet");
                prop_assert_eq!(checksum::of_transport(ip.src, ip.dst, protocol::TCP, ip.payload), 0);
                if !v6 {
                    prop_assert_eq!(checksum::of(&packet[..20]), 0);
                }
                let head = Head::parse(ip.payload).expect("a segment");
                prop_assert_eq!(head.seq, seq);
                let last = at + 1 == out.len();
                prop_assert_eq!(head.flags, if last { 0x19 } else { 0x10 });
                prop_assert_eq!(head.len, if last { payload.len() - joined.len() } else { size });
                seq = seq.wrapping_add(u32::try_from(head.len).expect("small"));
                joined.extend_from_slice(&ip.payload[ip.payload.len() - head.len..]);
            }
            prop_assert_eq!(joined, payload);
        }
    }

    #[test]
    fn what_has_no_payload_stays_whole() {
        let mut whole = segment(false, 2, &[], 0x02);
        whole[20 + 21..20 + 25].copy_from_slice(&[2, 4, 0x05, 0xb4]);
        let mut out = Packets::new();
        emit(&mut out, whole.len(), None, 1280, |room| room.copy_from_slice(&whole));
        assert_eq!(out.len(), 1);
        let packet = out.iter().next().expect("one");
        let ip = ip::parse(packet).expect("a packet");
        assert_eq!(checksum::of_transport(ip.src, ip.dst, protocol::TCP, ip.payload), 0);
        assert_eq!(Head::parse(ip.payload).map(|head| (head.flags, head.len)), Some((2, 0)));
        // The segment size that it offers is one that fits.
        assert_eq!(ip.payload[20..25], [1, 2, 4, 0x04, 0xd8]);
    }
}
