//! Coalescing: segments of one flow that follow each other without a gap become one, so that smoltcp looks at some twenty
//! packets once.

use super::{ACK, FIN, PSH};

/// Largest packet (its length stands in 16 bits).
const LARGEST: usize = 65_535;

/// Gives packets of one flow to `feed`, in their order; those that can be are joined in `scratch`. `expected` tells the
/// number of the next byte that is missing: what lies behind a gap is not joined, since each packet of it makes an
/// acknowledgement, and the sender counts them to see what was lost (RFC 5681 §3.2).
pub(super) fn each<T>(
    to: &mut T,
    packets: &[&[u8]],
    scratch: &mut Vec<u8>,
    expected: impl Fn(&T) -> Option<u32>,
    mut feed: impl FnMut(&mut T, &[u8]),
) {
    let mut rest = packets;
    // What `to` does not tell of bytes that it got from here.
    let mut next_seq = expected(to);
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let head =
            Data::of(first).filter(|head| [next_seq, expected(to)].contains(&Some(head.seq)));
        let Some(head) = head else {
            feed(to, first);
            continue;
        };
        let (mut before, mut last, mut len, mut count) = (head, head, first.len(), 0);
        while let Some(next) = rest.get(count).and_then(|next| Data::of(next))
            && last.flags & FIN == 0
            && next.follows(&last)
            && len + next.payload.len() <= LARGEST
        {
            len += next.payload.len();
            (before, last) = (last, next);
            count += 1;
        }
        // The last one goes by itself: smoltcp waits with the acknowledgement of one segment, and not of two.
        if count > 0 {
            (last, count) = (before, count - 1);
        }
        next_seq = Some(last.end());
        if count == 0 {
            feed(to, first);
            continue;
        }
        scratch.clear();
        scratch.extend_from_slice(first);
        for next in rest[..count].iter().filter_map(|next| Data::of(next)) {
            scratch.extend_from_slice(next.payload);
        }
        rest = &rest[count..];
        head.finish(scratch, &last);
        feed(to, scratch);
    }
}

/// A segment with data and without anything unusual.
#[derive(Clone, Copy)]
struct Data<'a> {
    /// Length of the IP header.
    ip: usize,
    tcp: &'a [u8],
    payload: &'a [u8],
    seq: u32,
    flags: u8,
}

impl<'a> Data<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let word = |at: usize| {
            Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])))
        };
        let (ip, total) = match packet.first()? {
            0x45 => (20, word(2)?),
            // No header between that of IPv6 and TCP.
            byte if byte >> 4 == 6 && packet.get(6) == Some(&6) => (40, word(4)? + 40),
            _ => return None,
        };
        // Padding is for those who look at it.
        if total != packet.len() {
            return None;
        }
        let tcp = packet.get(ip..)?;
        let flags = *tcp.get(13)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let (tcp, payload) = (tcp.get(..header)?, tcp.get(header..)?);
        let plain = flags & !(PSH | FIN) == ACK && header >= 20 && !payload.is_empty();
        let seq = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        plain.then_some(Self { ip, tcp, payload, seq, flags })
    }

    /// The number of the byte behind it.
    fn end(&self) -> u32 {
        self.seq.wrapping_add(u32::try_from(self.payload.len()).unwrap_or(0))
    }

    /// Whether it is what comes after `other`, and says the same otherwise. What it acknowledges may be more.
    fn follows(&self, other: &Self) -> bool {
        self.seq == other.end() && self.ip == other.ip && self.tcp.get(20..) == other.tcp.get(20..)
    }

    /// Makes one packet of the first segment, whose bytes `packet` begins with, and all behind it up to `last`.
    fn finish(&self, packet: &mut [u8], last: &Self) {
        let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        match self.ip {
            20 => packet[2..4].copy_from_slice(&total.to_be_bytes()),
            _ => packet[4..6].copy_from_slice(&total.saturating_sub(40).to_be_bytes()),
        }
        let tcp = &mut packet[self.ip..];
        // Acknowledgement, flags and window: the last one knows best.
        tcp[8..12].copy_from_slice(&last.tcp[8..12]);
        tcp[13..16].copy_from_slice(&last.tcp[13..16]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ip::{self, protocol},
        packets::Packets,
        tcp::Head,
    };

    fn segment(v6: bool, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[..4].copy_from_slice(&[0, 80, 0x30, 0x39]);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&seq.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = flags;
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

    /// What comes of packets when the first of `expected` is missing next, and later the others.
    fn merged(packets: &[Vec<u8>], expected: &[u32]) -> Vec<(Head, Vec<u8>)> {
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let mut got = Vec::new();
        let next = |got: &Vec<_>| expected.get(got.len()).copied();
        each(&mut got, &packets, &mut Vec::new(), next, |got, packet| {
            let ip = ip::parse(packet).expect("a packet");
            let head = Head::parse(ip.payload).expect("a segment");
            got.push((head, ip.payload[ip.payload.len() - head.len..].to_vec()));
        });
        got
    }

    proptest! {
        #[test]
        fn what_follows_is_joined_and_nothing_is_lost(
            v6: bool,
            seq: u32,
            sizes in proptest::collection::vec((1_usize..1400, any::<bool>(), 0_u8..60), 1..60),
        ) {
            let mut packets = Vec::new();
            let (mut at, mut whole) = (seq, Vec::new());
            // Pure acknowledgements stay what they are; behind a gap, nothing is joined.
            let mut expected = 0;
            let (mut fresh, mut gap) = (true, false);
            for (size, push, odd) in sizes {
                if odd == 0 {
                    at = at.wrapping_add(1000);
                    gap = true;
                }
                if odd == 1 {
                    packets.push(segment(v6, at, ACK, &[]));
                    expected += 1;
                    fresh = true;
                }
                let payload = vec![u8::try_from(size % 251).unwrap_or(0); size];
                packets.push(segment(v6, at, if push { ACK | PSH } else { ACK }, &payload));
                at = at.wrapping_add(u32::try_from(size).expect("small"));
                whole.extend_from_slice(&payload);
                expected += usize::from(fresh || gap);
                fresh = false;
            }
            let got = merged(&packets, &[seq]);
            let joined: Vec<u8> = got.iter().flat_map(|(_, payload)| payload.clone()).collect();
            prop_assert_eq!(joined, whole);
            // One that is full begins another one.
            prop_assert!(got.len() >= expected && got.len() <= 2 * expected + 2);
        }

        #[test]
        fn nonsense_goes_on_as_it_is(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..5),
        ) {
            let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
            let mut got = 0;
            each(&mut got, &packets, &mut Vec::new(), |_| None, |got, _| *got += 1);
            prop_assert_eq!(got, packets.len());
        }
    }

    #[test]
    fn an_end_is_kept_and_ends() {
        let packets = [
            segment(false, 1, ACK, b"one"),
            segment(false, 4, ACK | PSH, b"two"),
            segment(false, 7, ACK | PSH | FIN, b"end"),
            segment(false, 10, ACK, b"three"),
            segment(false, 15, ACK | 4, b"four"),
        ];
        let got = merged(&packets, &[1, 7]);
        let heads: Vec<_> =
            got.iter().map(|(head, payload)| (head.flags, head.ack, &payload[..])).collect();
        let expected: [(u8, u32, &[u8]); 4] = [
            (ACK | PSH, 4, b"onetwo"),
            (ACK | PSH | FIN, 7, b"end"),
            (ACK, 10, b"three"),
            (ACK | 4, 15, b"four"),
        ];
        assert_eq!(heads, expected);
    }
}
