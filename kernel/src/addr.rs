//! Destinations: an address or a name, and a port.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// An IP address or a domain name, as a client named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address literal.
    Ip(IpAddr),
    /// A domain name, kept as the client wrote it (no trailing dot is added or removed).
    Name(Arc<str>),
}

impl Host {
    /// The address, if this is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }

    /// The domain name, if this is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Ip(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

impl From<IpAddr> for Host {
    /// IPv4-mapped IPv6 addresses become IPv4, as every socket API of the reference does.
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }
}

impl From<&str> for Host {
    /// Text that parses as an address (with or without brackets) is one; everything else is a name. The zone of an
    /// IPv6 address (`fe80::1%eth0`) is left out: see [`zone`].
    fn from(text: &str) -> Self {
        let (address, _) = split_zone(text);
        match IpAddr::from_str(address) {
            Ok(ip) => ip.into(),
            Err(_) => Self::Name(text.into()),
        }
    }
}

/// An address and its zone, without brackets.
fn split_zone(text: &str) -> (&str, &str) {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.split_once('%') {
        Some((address, zone)) if !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok() => {
            (address, zone)
        }
        _ => (bare, ""),
    }
}

/// The zone of an address as options name a server: the interface, by name or number, that leads to a link-local
/// address. Empty for all that has none.
pub fn zone(text: &str) -> &str {
    split_zone(text).1
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A destination: host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Address or name.
    pub host: Host,
    /// Port; 0 where the protocol has none.
    pub port: u16,
}

impl Target {
    /// A destination from anything that names a host.
    pub fn new(host: impl Into<Host>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The socket address, if the host is an address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host.ip().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// The unspecified IPv4 address with port 0, which protocols use for "no address".
    pub fn unspecified() -> Self {
        Self::from(SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().into(), port: addr.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4() {
        let target = Target::from("[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap());
        assert_eq!(target.to_string(), "192.0.2.1:80");
    }

    #[test]
    fn text_is_an_address_or_a_name() {
        assert_eq!(Host::from("[2001:db8::1]").ip(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(Host::from("example.org").name(), Some("example.org"));
        assert_eq!(Target::new("::1", 53).to_string(), "[::1]:53");
        assert_eq!(Target::new("[fe80::1%eth0]", 53).to_string(), "[fe80::1]:53");
        assert_eq!((zone("fe80::1%eth0"), zone("[fe80::1%2]"), zone("::1")), ("eth0", "2", ""));
        for name in ["fe80::1%", "a%b", "1.1.1.1%eth0"] {
            assert_eq!((Host::from(name).name(), zone(name)), (Some(name), ""));
        }
    }
}
