//! Which network interface leads to a destination (`auto_detect_interface`).
//!
//! The routing tables are read from `/proc/net` and remembered for a moment. The reference asks: is the
//! destination inside a prefix of an interface? Then that one; else the one of the default route.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long the tables are trusted. A changed default route is noticed after that.
const FRESH: Duration = Duration::from_secs(1);

/// Flags of a route, `linux/route.h` and `linux/ipv6_route.h`.
const UP: u32 = 0x0001;
const GATEWAY: u32 = 0x0002;
const REJECT: u32 = 0x0200;
const LOCAL: u32 = 0x8000_0000;

/// One usable route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    net: IpAddr,
    prefix: u8,
    direct: bool,
    metric: u32,
    interface: Box<str>,
}

impl Route {
    fn contains(&self, ip: IpAddr) -> bool {
        match (self.net, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(net) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(net) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

/// The routes of this network name space.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Reads the tables.
    ///
    /// # Errors
    /// `/proc` is not there or not readable.
    pub fn read() -> io::Result<Self> {
        let v4 = fs::read_to_string("/proc/net/route")?;
        // A kernel without IPv6 has no such file.
        let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
        Ok(Self::parse(&v4, &v6))
    }

    fn parse(v4: &str, v6: &str) -> Self {
        let v4 = v4.lines().skip(1).filter_map(parse_v4);
        Self(v4.chain(v6.lines().filter_map(parse_v6)).collect())
    }

    /// The interface whose own prefix contains `ip` (the longest such prefix).
    pub fn on_link(&self, ip: IpAddr) -> Option<&str> {
        let direct = self.0.iter().filter(|r| r.direct && r.prefix > 0 && r.contains(ip));
        direct.max_by_key(|r| (r.prefix, u32::MAX - r.metric)).map(|r| &*r.interface)
    }

    /// The interface of the default route: IPv4 before IPv6, the lowest metric first.
    pub fn default_interface(&self) -> Option<&str> {
        let defaults = self.0.iter().filter(|r| r.prefix == 0);
        defaults.min_by_key(|r| (r.net.is_ipv6(), r.metric)).map(|r| &*r.interface)
    }
}

/// The interface that a socket to `ip` (or to anywhere) is bound to.
///
/// # Errors
/// There is no default route: `no route to internet`.
pub fn toward(ip: Option<IpAddr>) -> io::Result<Box<str>> {
    static KNOWN: Mutex<Option<(Instant, Arc<Routes>)>> = Mutex::new(None);
    let routes = {
        let mut known = KNOWN.lock();
        match &*known {
            Some((at, routes)) if at.elapsed() < FRESH => routes.clone(),
            _ => known.insert((Instant::now(), Arc::new(Routes::read()?))).1.clone(),
        }
    };
    ip.and_then(|ip| routes.on_link(ip.to_canonical()))
        .or_else(|| routes.default_interface())
        .map(Into::into)
        .ok_or_else(|| io::Error::other("no route to internet"))
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, numbers in hexadecimal, addresses as the
/// bytes lie in memory.
fn parse_v4(line: &str) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let interface = fields.next()?;
    let addr = |text| Some(u32::from_str_radix(text, 16).ok()?.swap_bytes());
    let net = addr(fields.next()?)?;
    let _gateway = fields.next()?;
    let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
    let metric = fields.nth(2)?.parse().ok()?;
    let mask = addr(fields.next()?)?;
    usable(flags).then(|| Route {
        net: Ipv4Addr::from(net).into(),
        prefix: mask.leading_ones() as u8,
        direct: flags & GATEWAY == 0,
        metric,
        interface: interface.into(),
    })
}

/// `destination prefix source prefix gateway metric refcnt use flags interface`, all in hexadecimal.
fn parse_v6(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let &[net, prefix, _, _, _, metric, _, _, flags, interface] = fields.as_slice() else {
        return None;
    };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let net = Ipv6Addr::from(u128::from_str_radix(net, 16).ok()?);
    // Multicast is bound to no interface, and the entries of `lo` lead nowhere else.
    if !usable(flags) || net.is_multicast() || interface == "lo" {
        return None;
    }
    Some(Route {
        net: net.into(),
        prefix: u8::from_str_radix(prefix, 16).ok()?,
        direct: flags & GATEWAY == 0,
        metric: u32::from_str_radix(metric, 16).ok()?,
        interface: interface.into(),
    })
}

fn usable(flags: u32) -> bool {
    flags & UP != 0 && flags & (REJECT | LOCAL) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
";
    const V6: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth2
fd000000000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn own_prefixes_come_before_the_default_route() {
        let routes = Routes::parse(V4, V6);
        let on_link = |ip: &str| routes.on_link(ip.parse().unwrap());
        assert_eq!(on_link("10.3.4.5"), Some("eth1"));
        assert_eq!(on_link("192.0.2.9"), Some("eth0"));
        assert_eq!(on_link("203.0.113.1"), None);
        assert_eq!(on_link("fd00::77"), Some("eth0"));
        assert_eq!(on_link("2001:db8::1"), None);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        assert_eq!(Routes::parse(V4, V6).default_interface(), Some("eth0"));
        assert_eq!(Routes::parse("", V6).default_interface(), Some("eth2"));
        assert_eq!(Routes::parse("", "").default_interface(), None);
        assert_eq!(Routes::parse("garbage\n1 2 3\n", "x y\n").default_interface(), None);
    }
}
