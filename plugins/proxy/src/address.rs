//! Destinations as SOCKS5 writes them (RFC 1928 §5): type, address, port.

use std::net::{Ipv4Addr, Ipv6Addr};

use crosspoint_kernel::addr::{Host, Target};

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Longest encoding in bytes.
pub const MAX: usize = 1 + 1 + 255 + 2;

/// Bytes that are no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// More bytes are needed: this many in all, as far as can be told.
    #[error("destination incomplete")]
    Incomplete(usize),
    /// The type is none of the three.
    #[error("unknown address type {0}")]
    Type(u8),
    /// The name is empty or not UTF-8.
    #[error("malformed domain name")]
    Name,
}

/// Reads a destination from the front; returns it and its length in bytes.
///
/// # Errors
/// See [`AddressError`].
pub fn parse(bytes: &[u8]) -> Result<(Target, usize), AddressError> {
    let (kind, rest) = bytes.split_first().ok_or(AddressError::Incomplete(1))?;
    let (skip, host) = match *kind {
        IPV4 => (1, 4),
        IPV6 => (1, 16),
        NAME => (2, usize::from(*rest.first().ok_or(AddressError::Incomplete(2))?)),
        other => return Err(AddressError::Type(other)),
    };
    let len = skip + host + 2;
    let all = bytes.get(..len).ok_or(AddressError::Incomplete(len))?;
    let (host, port) = all[skip..].split_at(host);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let host = match *kind {
        NAME => {
            let name = std::str::from_utf8(host).map_err(|_| AddressError::Name)?;
            if name.is_empty() {
                return Err(AddressError::Name);
            }
            Host::from(name)
        }
        _ => match (<[u8; 4]>::try_from(host), <[u8; 16]>::try_from(host)) {
            (Ok(ip), _) => Host::from(std::net::IpAddr::from(Ipv4Addr::from(ip))),
            (_, Ok(ip)) => Host::from(std::net::IpAddr::from(Ipv6Addr::from(ip))),
            _ => return Err(AddressError::Type(*kind)),
        },
    };
    Ok((Target { host, port }, len))
}

/// Length of the encoding of `target`.
#[must_use]
pub fn len(target: &Target) -> usize {
    match &target.host {
        Host::Ip(ip) if ip.is_ipv4() => 7,
        Host::Ip(_) => 19,
        Host::Name(name) => 4 + name.len().min(255),
    }
}

/// Appends the encoding of `target`. A name is cut after 255 bytes; no resolver knows longer ones.
pub fn emit(target: &Target, out: &mut Vec<u8>) {
    match &target.host {
        Host::Ip(std::net::IpAddr::V4(ip)) => {
            out.push(IPV4);
            out.extend(ip.octets());
        }
        Host::Ip(std::net::IpAddr::V6(ip)) => {
            out.push(IPV6);
            out.extend(ip.octets());
        }
        Host::Name(name) => {
            let bytes = &name.as_bytes()[..name.len().min(255)];
            out.push(NAME);
            out.push(bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(target.port.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_destination_is_refused() {
        assert_eq!(parse(&[]), Err(AddressError::Incomplete(1)));
        assert_eq!(parse(&[1, 1, 2]), Err(AddressError::Incomplete(7)));
        assert_eq!(parse(&[3]), Err(AddressError::Incomplete(2)));
        assert_eq!(parse(&[3, 9, b'a']), Err(AddressError::Incomplete(13)));
        assert_eq!(parse(&[2, 0, 0]), Err(AddressError::Type(2)));
        assert_eq!(parse(&[3, 0, 0, 80]), Err(AddressError::Name));
        assert_eq!(parse(&[3, 1, 0xff, 0, 80]), Err(AddressError::Name));
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: std::net::IpAddr, name in "[a-z][a-z0-9.-]{0,60}", named: bool, port: u16, tail: Vec<u8>) {
            let host = if named { Host::from(&*name) } else { Host::from(ip) };
            let target = Target { host, port };
            let mut bytes = Vec::new();
            emit(&target, &mut bytes);
            prop_assert_eq!(bytes.len(), len(&target));
            let end = bytes.len();
            for cut in 0..end {
                prop_assert!(matches!(parse(&bytes[..cut]), Err(AddressError::Incomplete(_))));
            }
            bytes.extend(tail);
            prop_assert_eq!(parse(&bytes), Ok((target, end)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
