//! A host and a port as the SOCKS and HTTP codecs meet them: borrowed from the input, nothing allocated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crosspoint_kernel::addr;

/// Longest host name accepted, in bytes (one length octet in SOCKS5, RFC 1928 §5).
pub const MAX_NAME: usize = 255;

/// An address literal or a name that borrows from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// An IPv4 address; mapped IPv6 addresses are unwrapped into this form.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A name of 1 to [`MAX_NAME`] bytes without blanks or control characters.
    Name(&'a str),
}

impl<'a> Host<'a> {
    /// Reads a host without port: an address literal (IPv6 with or without brackets) or a name.
    /// `None` for what can be neither. Clients put literals into name fields, so this is used for both.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']')?.parse().ok().map(Self::v6);
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Some(addr.into());
        }
        let printable = |b: u8| b > b' ' && b != 0x7f;
        let fits = !text.is_empty() && text.len() <= MAX_NAME;
        (fits && !text.contains([':', '[', ']', '/']) && text.bytes().all(printable))
            .then_some(Self::Name(text))
    }

    /// Reads a host from raw bytes; see [`Host::parse`].
    pub fn parse_bytes(bytes: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().and_then(Self::parse)
    }

    fn v6(addr: Ipv6Addr) -> Self {
        addr.to_ipv4_mapped().map_or(Self::V6(addr), Self::V4)
    }

    /// The address, unless this is a name.
    pub fn ip(&self) -> Option<IpAddr> {
        match *self {
            Self::V4(addr) => Some(addr.into()),
            Self::V6(addr) => Some(addr.into()),
            Self::Name(_) => None,
        }
    }
}

impl From<IpAddr> for Host<'_> {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(addr) => Self::v6(addr),
        }
    }
}

/// A host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target<'a> {
    /// Where to.
    pub host: Host<'a>,
    /// Port in host byte order; 0 is passed on as it is.
    pub port: u16,
}

impl<'a> Target<'a> {
    /// The unspecified IPv4 address with port 0: "do not know" in SOCKS requests and replies.
    pub const UNSPECIFIED: Self = Self { host: Host::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

    /// A target from its parts.
    pub const fn new(host: Host<'a>, port: u16) -> Self {
        Self { host, port }
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`. `default_port` stands in for a missing or empty port.
    pub fn parse_authority(text: &'a str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.rfind(':') {
            // The colons of a bracketed address without a port are not separators.
            Some(at) if !text.get(at..)?.contains(']') => (text.get(..at)?, text.get(at + 1..)?),
            _ => (text, ""),
        };
        let port = match port {
            "" => default_port,
            // `u16::from_str` takes a leading plus sign, which no authority may have.
            port if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok()?,
            _ => return None,
        };
        let host = Host::parse(host)?;
        // A bare IPv6 address would have lost its last group to the port.
        (matches!(host, Host::V6(_)) <= text.starts_with('[')).then_some(Self { host, port })
    }
}

impl From<Target<'_>> for addr::Target {
    fn from(target: Target<'_>) -> Self {
        let host = match target.host {
            Host::V4(ip) => addr::Host::Ip(ip.into()),
            Host::V6(ip) => addr::Host::Ip(ip.into()),
            Host::Name(name) => addr::Host::Name(name.into()),
        };
        Self { host, port: target.port }
    }
}

impl<'a> From<&'a addr::Target> for Target<'a> {
    fn from(target: &'a addr::Target) -> Self {
        let host = match &target.host {
            addr::Host::Ip(ip) => (*ip).into(),
            addr::Host::Name(name) => Host::Name(name),
        };
        Self { host, port: target.port }
    }
}

impl From<SocketAddr> for Target<'_> {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().into(), port: addr.port() }
    }
}

impl fmt::Display for Host<'_> {
    /// An IPv6 address stands without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(addr) => addr.fmt(f),
            Self::V6(addr) => addr.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::V6(addr) => write!(f, "[{addr}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let shown = |text, port| Target::parse_authority(text, port).map(|t| t.to_string());
        assert_eq!(shown("a.test:81", 80).as_deref(), Some("a.test:81"));
        assert_eq!(shown("a.test", 80).as_deref(), Some("a.test:80"));
        assert_eq!(shown("a.test:", 80).as_deref(), Some("a.test:80"));
        assert_eq!(shown("127.0.0.1:1", 80).as_deref(), Some("127.0.0.1:1"));
        assert_eq!(shown("[::1]:8080", 80).as_deref(), Some("[::1]:8080"));
        assert_eq!(shown("[::1]", 80).as_deref(), Some("[::1]:80"));
        assert_eq!(shown("[::ffff:1.2.3.4]:5", 80).as_deref(), Some("1.2.3.4:5"));
        for bad in [
            "", ":80", "::1", "::1:80", "[::1", "[a]:1", "a:70000", "a:+1", "a b:1", "a:1:2",
            "a\0:1", "[::1]x:1",
        ] {
            assert_eq!(shown(bad, 80), None, "{bad:?}");
        }
    }

    #[test]
    fn name_limits() {
        let long = "a".repeat(256);
        assert!(Host::parse(&long).is_none());
        assert!(Host::parse(&long[1..]).is_some());
        assert_eq!(Host::parse_bytes(b"\xff"), None);
        assert_eq!(Host::parse("::1"), Some(Host::V6(Ipv6Addr::LOCALHOST)));
    }
}
