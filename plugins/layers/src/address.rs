//! Destinations as SOCKS5 writes them (RFC 1928 §5): type, address, port; and the same with other numbers for the types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crosspoint_kernel::addr::{Host, Target};

/// The numbers of the address types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// Four bytes.
    pub ipv4: u8,
    /// A length of one byte, and a name.
    pub name: u8,
    /// Sixteen bytes.
    pub ipv6: u8,
}

/// Those of SOCKS5.
pub const SOCKS: Families = Families { ipv4: 1, name: 3, ipv6: 4 };

/// Those of datagrams in UDP over TCP (sing, common/uot/protocol.go).
pub const UOT: Families = Families { ipv4: 0, name: 2, ipv6: 1 };

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

/// Reads a destination from the front, with the types of SOCKS5; returns it and its length in bytes.
///
/// # Errors
/// See [`AddressError`].
pub fn parse(bytes: &[u8]) -> Result<(Target, usize), AddressError> {
    SOCKS.parse(bytes)
}

/// Appends the encoding of `target` with the types of SOCKS5. A name is cut after 255 bytes; no resolver knows longer ones.
pub fn emit(target: &Target, out: &mut Vec<u8>) {
    SOCKS.emit(target, out);
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

impl Families {
    /// As [`parse`], with these types.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(self, bytes: &[u8]) -> Result<(Target, usize), AddressError> {
        let (kind, rest) = bytes.split_first().ok_or(AddressError::Incomplete(1))?;
        let (skip, host) = match *kind {
            kind if kind == self.ipv4 => (1, 4),
            kind if kind == self.ipv6 => (1, 16),
            kind if kind == self.name => {
                (2, usize::from(*rest.first().ok_or(AddressError::Incomplete(2))?))
            }
            other => return Err(AddressError::Type(other)),
        };
        let len = skip + host + 2;
        let all = bytes.get(..len).ok_or(AddressError::Incomplete(len))?;
        let (host, port) = all[skip..].split_at(host);
        let port = u16::from_be_bytes([port[0], port[1]]);
        let host = if *kind == self.name {
            let name = std::str::from_utf8(host).map_err(|_| AddressError::Name)?;
            if name.is_empty() {
                return Err(AddressError::Name);
            }
            Host::from(name)
        } else {
            match (<[u8; 4]>::try_from(host), <[u8; 16]>::try_from(host)) {
                (Ok(ip), _) => Host::from(IpAddr::from(Ipv4Addr::from(ip))),
                (_, Ok(ip)) => Host::from(IpAddr::from(Ipv6Addr::from(ip))),
                _ => return Err(AddressError::Type(*kind)),
            }
        };
        Ok((Target { host, port }, len))
    }

    /// As [`emit`], with these types.
    pub fn emit(self, target: &Target, out: &mut Vec<u8>) {
        match &target.host {
            Host::Ip(IpAddr::V4(ip)) => {
                out.push(self.ipv4);
                out.extend(ip.octets());
            }
            Host::Ip(IpAddr::V6(ip)) => {
                out.push(self.ipv6);
                out.extend(ip.octets());
            }
            Host::Name(name) => {
                let bytes = &name.as_bytes()[..name.len().min(255)];
                out.push(self.name);
                out.push(bytes.len() as u8);
                out.extend(bytes);
            }
        }
        out.extend(target.port.to_be_bytes());
    }
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
        assert_eq!(UOT.parse(&[4, 1, 2]), Err(AddressError::Type(4)));
        assert_eq!(UOT.parse(&[0, 192, 0, 2, 1, 0, 80]), Ok((Target::new("192.0.2.1", 80), 7)));
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: IpAddr, name in "[a-z][a-z0-9.-]{0,60}", named: bool, uot: bool, port: u16, tail: Vec<u8>) {
            let host = if named { Host::from(&*name) } else { Host::from(ip) };
            let target = Target { host, port };
            let families = if uot { UOT } else { SOCKS };
            let mut bytes = Vec::new();
            families.emit(&target, &mut bytes);
            prop_assert_eq!(bytes.len(), len(&target));
            let end = bytes.len();
            for cut in 0..end {
                prop_assert!(matches!(families.parse(&bytes[..cut]), Err(AddressError::Incomplete(_))));
            }
            bytes.extend(tail);
            prop_assert_eq!(families.parse(&bytes), Ok((target, end)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = UOT.parse(&bytes);
        }
    }
}
