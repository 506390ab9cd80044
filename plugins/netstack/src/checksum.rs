//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// The sum of 16-bit words, not folded. An odd last byte counts as the high byte of a word.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let all: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    all + rest.first().map_or(0, |byte| u64::from(*byte) << 8)
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap_or(0))
}

/// The checksum of a header.
pub fn of(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

/// The checksum of a transport packet: over a pseudo header with its addresses, its protocol and length (RFC 768,
/// RFC 8200 §8.1), and its bytes, whose checksum field must be zero.
pub fn of_transport(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let ends = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        _ => 0,
    };
    fold(ends + u64::from(protocol) + bytes.len() as u64 + sum(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(of(&[1]), !0x0100);
    }
}
