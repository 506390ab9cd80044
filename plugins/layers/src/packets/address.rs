//! Destinations as VMess, VLESS and mux.cool write them: port, type, address (sing-vmess `protocol.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crosspoint_kernel::addr::{Host, Target};

const IPV4: u8 = 1;
const NAME: u8 = 2;
const IPV6: u8 = 3;

/// Longest encoding in bytes.
pub const MAX: usize = 2 + 1 + 1 + 255;

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

impl From<AddressError> for std::io::Error {
    fn from(error: AddressError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Reads a destination from the front; returns it and its length in bytes.
///
/// # Errors
/// See [`AddressError`].
pub fn parse(bytes: &[u8]) -> Result<(Target, usize), AddressError> {
    let Some(&[high, low, kind]) = bytes.first_chunk() else {
        return Err(AddressError::Incomplete(4));
    };
    let port = u16::from_be_bytes([high, low]);
    let rest = &bytes[3..];
    let (host, len) = match kind {
        IPV4 => {
            let ip: &[u8; 4] = rest.first_chunk().ok_or(AddressError::Incomplete(3 + 4))?;
            (Host::from(IpAddr::from(Ipv4Addr::from(*ip))), 3 + 4)
        }
        IPV6 => {
            let ip: &[u8; 16] = rest.first_chunk().ok_or(AddressError::Incomplete(3 + 16))?;
            (Host::from(IpAddr::from(Ipv6Addr::from(*ip))), 3 + 16)
        }
        NAME => {
            let len = usize::from(*rest.first().ok_or(AddressError::Incomplete(4))?);
            let name = rest.get(1..1 + len).ok_or(AddressError::Incomplete(4 + len))?;
            let name = std::str::from_utf8(name).map_err(|_| AddressError::Name)?;
            if name.is_empty() {
                return Err(AddressError::Name);
            }
            (Host::from(name), 4 + len)
        }
        other => return Err(AddressError::Type(other)),
    };
    Ok((Target { host, port }, len))
}

/// Length of the encoding of `target`.
#[must_use]
pub fn len(target: &Target) -> usize {
    match &target.host {
        Host::Ip(ip) if ip.is_ipv4() => 3 + 4,
        Host::Ip(_) => 3 + 16,
        Host::Name(name) => 4 + name.len().min(255),
    }
}

/// Appends the encoding of `target`. A name is cut after 255 bytes; no resolver knows longer ones.
pub fn emit(target: &Target, out: &mut Vec<u8>) {
    out.extend(target.port.to_be_bytes());
    match &target.host {
        Host::Ip(IpAddr::V4(ip)) => {
            out.push(IPV4);
            out.extend(ip.octets());
        }
        Host::Ip(IpAddr::V6(ip)) => {
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_destination_is_refused() {
        assert_eq!(parse(&[0, 80]), Err(AddressError::Incomplete(4)));
        assert_eq!(parse(&[0, 80, 1, 127]), Err(AddressError::Incomplete(7)));
        assert_eq!(parse(&[0, 80, 2]), Err(AddressError::Incomplete(4)));
        assert_eq!(parse(&[0, 80, 2, 9, b'a']), Err(AddressError::Incomplete(13)));
        assert_eq!(parse(&[0, 80, 4, 0]), Err(AddressError::Type(4)));
        assert_eq!(parse(&[0, 80, 2, 0]), Err(AddressError::Name));
        assert_eq!(parse(&[0, 80, 2, 1, 0xff]), Err(AddressError::Name));
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: IpAddr, name in "[a-z][a-z0-9.-]{0,60}", named: bool, port: u16, tail: Vec<u8>) {
            let host = if named { Host::from(&*name) } else { Host::from(ip) };
            let target = Target { host, port };
            let mut bytes = Vec::new();
            emit(&target, &mut bytes);
            prop_assert_eq!(bytes.len(), len(&target));
            let end = bytes.len();
            for cut in 0..end {
                prop_assert!(matches!(parse(&bytes[..cut]), Err(AddressError::Incomplete(n)) if n > cut && n <= end));
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
