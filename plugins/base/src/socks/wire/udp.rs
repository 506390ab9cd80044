//! The header in front of every datagram of a UDP association (RFC 1928 §7): reserved, fragment, address.

use bytes::BufMut;
use thiserror::Error;

use super::addr::{AddrError, MAX_ADDR, addr_len, emit_addr, parse_addr};
use crate::host::Target;

/// Longest header in bytes.
pub const MAX_UDP_HEADER: usize = 3 + MAX_ADDR;

/// Why a datagram is dropped.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UdpError {
    /// Shorter than its header.
    #[error("truncated datagram")]
    Truncated,
    /// Part of a fragmented datagram. RFC 1928 lets a relay without reassembly drop it.
    #[error("fragment {0}")]
    Fragment(u8),
    /// Not an address.
    #[error("malformed address")]
    Address,
}

/// Reads the header of a datagram: the peer it is for (or from) and the length of the header.
pub fn parse_udp_header(datagram: &[u8]) -> Result<(Target<'_>, usize), UdpError> {
    let Some(([_, _, fragment], rest)) = datagram.split_first_chunk::<3>() else {
        return Err(UdpError::Truncated);
    };
    if *fragment != 0 {
        return Err(UdpError::Fragment(*fragment));
    }
    match parse_addr(rest) {
        Ok(Some((target, len))) => Ok((target, 3 + len)),
        Ok(None) => Err(UdpError::Truncated),
        Err(AddrError::Type(_) | AddrError::Name) => Err(UdpError::Address),
    }
}

/// Bytes that [`emit_udp_header`] writes for this target.
pub fn udp_header_len(target: &Target<'_>) -> usize {
    3 + addr_len(target)
}

/// Writes the header of a datagram for (or from) `target`.
pub fn emit_udp_header(target: &Target<'_>, out: &mut impl BufMut) {
    out.put_slice(&[0; 3]);
    emit_addr(target, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::addr::tests::any_target;
    use super::*;

    proptest! {
        #[test]
        fn round_trip(target in any_target(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut datagram = Vec::new();
            emit_udp_header(&target, &mut datagram);
            let len = datagram.len();
            prop_assert_eq!(len, udp_header_len(&target));
            prop_assert!(len <= MAX_UDP_HEADER);
            for cut in 0..len {
                prop_assert_eq!(parse_udp_header(&datagram[..cut]), Err(UdpError::Truncated));
            }
            datagram.extend(payload);
            prop_assert_eq!(parse_udp_header(&datagram), Ok((target, len)));
            datagram[2] = 1;
            prop_assert_eq!(parse_udp_header(&datagram), Err(UdpError::Fragment(1)));
        }

        #[test]
        fn garbage_never_panics(datagram in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_udp_header(&datagram);
        }
    }

    #[test]
    fn refuses_unknown_types() {
        assert_eq!(parse_udp_header(&[0, 0, 0, 2, 0, 0]), Err(UdpError::Address));
        assert_eq!(parse_udp_header(&[0, 0, 0, 3, 0, 0, 80]), Err(UdpError::Address));
    }
}
