//! The address field of SOCKS5: type octet, address, port (RFC 1928 §5).

use bytes::BufMut;

use crate::host::{Host, MAX_NAME, Target};

const TYPE_V4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_V6: u8 = 4;

/// Longest address field in bytes: type, length, 255 bytes of name, port.
pub const MAX_ADDR: usize = 1 + 1 + MAX_NAME + 2;

/// What an address field turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddrError {
    /// The type octet is none of 1, 3, 4.
    Type(u8),
    /// The name is empty, not UTF-8 or holds blanks or control characters.
    Name,
}

/// Reads an address field. `Ok(None)` when the input ends within it; otherwise the target and the bytes used.
pub fn parse_addr(input: &[u8]) -> Result<Option<(Target<'_>, usize)>, AddrError> {
    let Some((&kind, rest)) = input.split_first() else { return Ok(None) };
    let (host, rest) = match kind {
        TYPE_V4 => match rest.split_first_chunk::<4>() {
            Some((octets, rest)) => (Host::V4((*octets).into()), rest),
            None => return Ok(None),
        },
        TYPE_V6 => match rest.split_first_chunk::<16>() {
            Some((octets, rest)) => (std::net::IpAddr::from(*octets).into(), rest),
            None => return Ok(None),
        },
        TYPE_NAME => {
            let Some((&len, rest)) = rest.split_first() else { return Ok(None) };
            let Some((name, rest)) = rest.split_at_checked(len.into()) else { return Ok(None) };
            (Host::parse_bytes(name).ok_or(AddrError::Name)?, rest)
        }
        other => return Err(AddrError::Type(other)),
    };
    let Some((port, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
    Ok(Some((Target::new(host, u16::from_be_bytes(*port)), input.len() - rest.len())))
}

/// Bytes that [`emit_addr`] writes for this target.
pub fn addr_len(target: &Target<'_>) -> usize {
    match target.host {
        Host::V4(_) => 1 + 4 + 2,
        Host::V6(_) => 1 + 16 + 2,
        Host::Name(name) => 1 + 1 + name.len().min(MAX_NAME) + 2,
    }
}

/// Writes an address field. A name longer than 255 bytes cannot be written and is cut; [`Host::parse`] never makes one.
pub fn emit_addr(target: &Target<'_>, out: &mut impl BufMut) {
    match target.host {
        Host::V4(addr) => {
            out.put_u8(TYPE_V4);
            out.put_slice(&addr.octets());
        }
        Host::V6(addr) => {
            out.put_u8(TYPE_V6);
            out.put_slice(&addr.octets());
        }
        Host::Name(name) => {
            let name = name.as_bytes().get(..MAX_NAME).unwrap_or(name.as_bytes());
            out.put_u8(TYPE_NAME);
            out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.put_slice(name);
        }
    }
    out.put_u16(target.port);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// A target whose name, if any, is leaked: good enough for tests.
    pub(crate) fn any_target() -> impl Strategy<Value = Target<'static>> {
        let host = prop_oneof![
            any::<u32>().prop_map(|bits| Host::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| Host::from(IpAddr::from(Ipv6Addr::from_bits(bits)))),
            "[a-z][a-z0-9._-]{0,254}".prop_map(|name| Host::Name(String::leak(name))),
        ];
        (host, any::<u16>()).prop_map(|(host, port)| Target::new(host, port))
    }

    proptest! {
        #[test]
        fn round_trip(target in any_target(), tail in proptest::collection::vec(any::<u8>(), 0..8)) {
            let mut bytes = Vec::new();
            emit_addr(&target, &mut bytes);
            let len = bytes.len();
            prop_assert_eq!(len, addr_len(&target));
            prop_assert!(len <= MAX_ADDR);
            for cut in 0..len {
                prop_assert_eq!(parse_addr(&bytes[..cut]), Ok(None));
            }
            bytes.extend(tail);
            prop_assert_eq!(parse_addr(&bytes), Ok(Some((target, len))));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((target, used))) = parse_addr(&bytes) {
                prop_assert!(used <= bytes.len());
                let mut again = Vec::new();
                emit_addr(&target, &mut again);
                prop_assert_eq!(parse_addr(&again).unwrap().map(|(target, _)| target), Some(target));
            }
        }
    }
}
