//! Fragments put together again (RFC 791 §3.2, RFC 8200 §4.5), within limits: what is not complete in time or does not
//! fit is forgotten.

use std::{collections::HashMap, net::IpAddr};

use crate::ip::{Fragment, Ip};

/// Packets that may be incomplete at a time.
const MOST: usize = 64;
/// How long to wait for the rest, in milliseconds (RFC 8200: 60 s; a tunnel loses what it loses).
const PATIENCE: u64 = 10_000;
/// Largest payload of a packet.
const LARGEST: usize = 65_535;

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Key {
    ends: (IpAddr, IpAddr),
    protocol: u8,
    id: u32,
}

struct Partial {
    since: u64,
    bytes: Vec<u8>,
    /// Parts that are there, in order and apart from each other: offset and end.
    have: Vec<(usize, usize)>,
    len: Option<usize>,
}

/// Packets of which parts have come.
#[derive(Default)]
pub(crate) struct Reassembly {
    partial: HashMap<Key, Partial>,
}

impl Reassembly {
    /// Takes a fragment; the payload of the packet once it is complete. `now` is in milliseconds.
    pub(crate) fn take(&mut self, now: u64, ip: &Ip<'_>, part: Fragment) -> Option<Vec<u8>> {
        let key = Key { ends: (ip.src, ip.dst), protocol: ip.protocol, id: part.id };
        let end = part.offset + ip.payload.len();
        if end > LARGEST || (part.more && !ip.payload.len().is_multiple_of(8)) {
            self.partial.remove(&key);
            return None;
        }
        self.partial.retain(|_, partial| now.saturating_sub(partial.since) < PATIENCE);
        if self.partial.len() >= MOST && !self.partial.contains_key(&key) {
            return None;
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            since: now,
            bytes: Vec::new(),
            have: Vec::new(),
            len: None,
        });
        // Parts that overlap are an attack, not a network (RFC 5722).
        if partial.have.iter().any(|(from, to)| part.offset < *to && *from < end) {
            self.partial.remove(&key);
            return None;
        }
        if partial.bytes.len() < end {
            partial.bytes.resize(end, 0);
        }
        partial.bytes[part.offset..end].copy_from_slice(ip.payload);
        let at = partial.have.partition_point(|(from, _)| *from < part.offset);
        partial.have.insert(at, (part.offset, end));
        if !part.more {
            partial.len = Some(end);
        }
        let joined =
            partial.have.iter().try_fold(0, |to, (from, end)| (*from == to).then_some(*end));
        let whole = partial.len.is_some() && joined == partial.len;
        if whole { self.partial.remove(&key).map(|partial| partial.bytes) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ip::{emit, parse, protocol},
        packets::Packets,
    };

    proptest! {
        #[test]
        fn parts_in_any_order_make_the_packet(
            payload in proptest::collection::vec(any::<u8>(), 1400..9000),
            order in any::<u64>(),
        ) {
            let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let mut out = Packets::new();
            emit(&mut out, ends, protocol::UDP, &payload, 1280, 7);
            let mut parts: Vec<&[u8]> = out.iter().collect();
            let len = parts.len();
            parts.rotate_left(usize::try_from(order % len as u64).expect("small"));
            let mut reassembly = Reassembly::default();
            for (index, packet) in parts.into_iter().enumerate() {
                let ip = parse(packet).expect("a packet");
                let whole = reassembly.take(0, &ip, ip.fragment.expect("a part"));
                prop_assert_eq!(whole, (index + 1 == len).then(|| payload.clone()));
            }
            prop_assert!(reassembly.partial.is_empty());
        }
    }

    #[test]
    fn what_stays_incomplete_is_forgotten() {
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            let ip = Ip {
                src: [10, 0, 0, 1].into(),
                dst: [10, 0, 0, 2].into(),
                protocol: protocol::UDP,
                payload: &[0; 800],
                fragment: None,
            };
            assert_eq!(reassembly.take(0, &ip, Fragment { id, offset: 0, more: true }), None);
            assert!(reassembly.partial.len() <= MOST);
            if id == 999 {
                reassembly.take(PATIENCE, &ip, Fragment { id, offset: 0, more: true });
                assert_eq!(reassembly.partial.len(), 1);
            }
        }
    }
}
