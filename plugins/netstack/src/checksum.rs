//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// The sum of 16-bit words, folded to 16 bits and not inverted. An odd last byte counts as the high byte of a word.
pub fn sum(bytes: &[u8]) -> u64 {
    // In the order of the machine, and of wide words, which the compiler adds several at a time: the order of bytes does
    // not matter until the end (RFC 1071 §2 B).
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        // Eight of them: no check is left of this, and no iterator.
        for at in 0..8 {
            lanes[at] += u64::from(u32::from_ne_bytes(words[at]));
        }
    }
    let (words, rest) = rest.as_chunks::<2>();
    let mut sum: u64 = lanes.iter().sum();
    sum += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
    sum += rest.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    u64::from(u16::from_be(carried(sum)))
}

/// Adds what does not fit into 16 bits to them.
fn carried(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// The checksum that a sum comes to.
pub fn fold(sum: u64) -> u16 {
    !carried(sum)
}

/// The checksum of a header.
pub fn of(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

/// The checksum of a transport packet: over a pseudo header with its addresses, its protocol and length (RFC 768,
/// RFC 8200 §8.1), and its bytes, whose checksum field must be zero.
pub fn of_transport(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    of_parts(src, dst, protocol, [bytes, &[]])
}

/// The same of bytes that lie in two pieces, of which the first has an even length.
pub fn of_parts(src: IpAddr, dst: IpAddr, protocol: u8, [head, rest]: [&[u8]; 2]) -> u16 {
    let ends = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        _ => 0,
    };
    fold(ends + u64::from(protocol) + (head.len() + rest.len()) as u64 + sum(head) + sum(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(of(&[1]), !0x0100);
    }

    proptest! {
        #[test]
        fn wide_words_come_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let words = bytes.chunks(2).map(|word| {
                u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
            });
            prop_assert_eq!(of(&bytes), fold(words.sum()));
        }
    }
}
