//! Segmentation offload: packets of one flow cross between the system and us as one large packet, with a header in front
//! that tells how it is to be cut (`struct virtio_net_hdr` of `linux/virtio_net.h`; numbers are in the order of this
//! machine). Sans-IO.
//!
//! [`split`] cuts what the system gives, [`Gather`] puts together what the system gets.

mod gather;
mod split;
#[cfg(test)]
mod tests;

pub use gather::Gather;
pub use split::{Malformed, split};

/// Length of [`Header`] in front of every packet.
pub const HEADER: usize = 10;

/// The checksum is not complete: that of the pseudo header stands in its place.
const NEEDS_CHECKSUM: u8 = 1;
/// One packet as it is.
const NONE: u8 = 0;
/// TCP over IPv4.
const TCP4: u8 = 1;
/// TCP over IPv6.
const TCP6: u8 = 4;
/// UDP over either.
const UDP: u8 = 5;
/// Set beside a kind of TCP if the flow uses explicit congestion notification.
const ECN: u8 = 0x80;

/// Bits of TCP's flags (RFC 9293, RFC 3168).
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const CWR: u8 = 0x80;
}

/// Protocol numbers of IANA.
mod protocol {
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
}

/// Where in TCP's and UDP's header the checksum stands.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// Length of UDP's header, and the least of TCP's.
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// What stands in front of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    flags: u8,
    kind: u8,
    /// Length of all headers of the packet.
    headers: u16,
    /// Payload bytes in each packet but the last.
    size: u16,
    /// Where the transport header begins.
    start: u16,
    /// Where in it the checksum stands.
    offset: u16,
}

impl Header {
    fn parse(bytes: [u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let [flags, kind, ..] = bytes;
        Self { flags, kind, headers: word(2), size: word(4), start: word(6), offset: word(8) }
    }

    fn emit(self) -> [u8; HEADER] {
        let mut bytes = [self.flags, self.kind, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.headers, self.size, self.start, self.offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The sum of what a transport checksum covers beside the transport packet itself: addresses, protocol, length.
fn pseudo(ip: &[u8], protocol: u8, len: usize) -> u64 {
    let ends = match ip.first().map(|byte| byte >> 4) {
        Some(4) => ip.get(12..20),
        _ => ip.get(8..40),
    };
    let ends = crosspoint_netstack::checksum::sum(ends.unwrap_or_default());
    ends + u64::from(protocol) + len as u64
}

fn put(packet: &mut [u8], at: usize, word: u16) {
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// Puts the length of the whole into a header of IP, and its checksum.
fn put_length(packet: &mut [u8], ip: usize) {
    // The system and WireGuard have no larger packets; a larger one is given up as malformed before.
    let whole = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    if packet.first().is_some_and(|byte| byte >> 4 == 4) {
        put(packet, 2, whole);
        put(packet, 10, 0);
        let sum = crosspoint_netstack::checksum::of(packet.get(..ip).unwrap_or_default());
        put(packet, 10, sum);
    } else {
        put(packet, 4, whole.saturating_sub(40));
    }
}
