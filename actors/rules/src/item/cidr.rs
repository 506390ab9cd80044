//! Sets of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crosspoint_schema::decode::{Addr, Prefix};

use crate::format::IpRanges;

/// A text that is neither a prefix nor an address. The texts are those of Go's `net/netip`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse [{index}]: {message}")]
pub struct CidrError {
    /// Its place in the list.
    pub index: usize,
    message: String,
}

/// A set of IPv4 and IPv6 addresses, kept as sorted ranges that do not touch.
///
/// IPv4 addresses are never in an IPv6 prefix, not even in `::ffff:0:0/96`: connections carry
/// IPv4-mapped addresses as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Box<[(u32, u32)]>,
    /// IPv6 ranges of whole /64 networks, which almost all are, by their networks.
    v6: Box<[(u64, u64)]>,
    /// The other IPv6 ranges.
    v6_fine: Box<[(u128, u128)]>,
}

impl CidrSet {
    /// A set of prefixes and single addresses. Bits behind a prefix are ignored.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn new<T: AsRef<str>>(prefixes: &[T]) -> Result<Self, CidrError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, text) in prefixes.iter().enumerate() {
            match parse(text.as_ref()).map_err(|message| CidrError { index, message })? {
                (IpAddr::V4(ip), bits) => v4.push(range4(ip, bits)),
                (IpAddr::V6(ip), bits) => v6.push(range6(ip, bits)),
            }
        }
        Ok(Self::of(v4, v6))
    }

    /// A set of ranges in any order.
    fn of(v4: Vec<(u32, u32)>, v6: Vec<(u128, u128)>) -> Self {
        let all = merge(v6, |end| end.checked_add(1));
        let whole = |(start, end): &(u128, u128)| *start as u64 == 0 && *end as u64 == u64::MAX;
        let networks = |(start, end): (u128, u128)| ((start >> 64) as u64, (end >> 64) as u64);
        Self {
            v4: merge(v4, |end| end.checked_add(1)).into(),
            v6: all.iter().copied().filter(whole).map(networks).collect(),
            v6_fine: all.into_iter().filter(|range| !whole(range)).collect(),
        }
    }

    /// How many prefixes it takes at least.
    pub(crate) fn ranges(&self) -> usize {
        self.v4.len() + self.v6.len() + self.v6_fine.len()
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.v4.len() * 8 + self.v6.len() * 16 + self.v6_fine.len() * 32
    }

    /// The set as prefixes: first address and length.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let v4 =
            self.v4.iter().flat_map(|(start, end)| split(u128::from(*start), u128::from(*end), 32));
        let whole = self.v6.iter().map(|&(start, end)| {
            (u128::from(start) << 64, u128::from(end) << 64 | u128::from(u64::MAX))
        });
        let fine = self.v6_fine.iter().copied();
        let v6 = whole.chain(fine).flat_map(|(start, end)| split(start, end, 128));
        let v4 = v4.map(|(start, bits)| (IpAddr::V4(Ipv4Addr::from(start as u32)), bits));
        v4.chain(v6.map(|(start, bits)| (IpAddr::V6(Ipv6Addr::from(start)), bits)))
    }

    /// Whether `ip` is in the set.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => within(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => {
                let number = u128::from(ip);
                within(&self.v6, (number >> 64) as u64) || within(&self.v6_fine, number)
            }
        }
    }
}

impl From<IpRanges> for CidrSet {
    fn from(ranges: IpRanges) -> Self {
        Self::of(ranges.v4, ranges.v6)
    }
}

/// A prefix, or an address as the prefix of its full length. An address that is refused is explained as the
/// prefix that it is not, and a zone counts for nothing, as in the reference.
fn parse(text: &str) -> Result<(IpAddr, u8), String> {
    let error = match Prefix::parse(text) {
        Ok(prefix) => return Ok((prefix.addr, prefix.bits)),
        Err(error) => error,
    };
    let addr = Addr::parse(text).map_err(|_| error)?;
    Ok((addr.ip, full(addr.ip)))
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn range4(ip: Ipv4Addr, bits: u8) -> (u32, u32) {
    let host = u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
    (u32::from(ip) & !host, u32::from(ip) | host)
}

fn range6(ip: Ipv6Addr, bits: u8) -> (u128, u128) {
    let host = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
    (u128::from(ip) & !host, u128::from(ip) | host)
}

fn merge<N: Ord + Copy>(mut ranges: Vec<(N, N)>, after: impl Fn(N) -> Option<N>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if after(last.1).is_none_or(|next| start <= next) => {
                last.1 = last.1.max(end)
            }
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn within<N: Ord>(ranges: &[(N, N)], key: N) -> bool {
    let above = ranges.partition_point(|(start, _)| *start <= key);
    above > 0 && ranges[above - 1].1 >= key
}

/// The fewest prefixes that make up a range of addresses `width` bits wide.
fn split(start: u128, end: u128, width: u8) -> impl Iterator<Item = (u128, u8)> {
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let at = next.filter(|at| *at <= end)?;
        // As many host bits as the alignment of `at` and the rest of the range allow.
        let aligned = at.trailing_zeros().min(u32::from(width));
        let room = (end - at).checked_add(1).map_or(u32::from(width), u128::ilog2);
        let host = aligned.min(room);
        let size = 1u128.checked_shl(host);
        next = size.and_then(|size| at.checked_add(size));
        Some((at, width - host as u8))
    })
}

/// Whether an address is not public: private use (RFC 1918, RFC 4193), loopback, multicast,
/// link-local or unspecified. Documentation and shared (RFC 6598) addresses count as public, as in
/// the reference.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_unique_local()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_and_addresses() {
        let set = CidrSet::new(&["10.1.2.3/8", "192.0.2.1", "2001:db8::/32", "::1", "0.0.0.0/32"])
            .unwrap();
        for inside in
            ["10.0.0.0", "10.255.255.255", "192.0.2.1", "2001:db8:ffff::", "::1", "0.0.0.0"]
        {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "192.0.2.2", "2001:db9::", "::2", "0.0.0.1"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(CidrSet::new(&["0.0.0.0/0"]).unwrap().contains(ip("255.255.255.255")));
        assert!(!CidrSet::new(&["0.0.0.0/0"]).unwrap().contains(ip("::")));
        assert!(CidrSet::new(&["::/0"]).unwrap().contains(ip("ffff::")));
        // Two halves of a network are one range of whole networks.
        let halves = CidrSet::new(&["2001:db8::/65", "2001:db8::8000:0:0:0/65"]).unwrap();
        assert_eq!(halves, CidrSet::new(&["2001:db8::/64"]).unwrap());
        // A slash may stand in a zone.
        let zones = CidrSet::new(&["fe80::1%a", "fe80::2%a/8"]).unwrap();
        assert_eq!(zones, CidrSet::new(&["fe80::1", "fe80::2"]).unwrap());
        assert!(!CidrSet::new(&["::ffff:0:0/96"]).unwrap().contains(ip("1.2.3.4")));
    }

    #[test]
    fn errors_of_the_reference() {
        for (text, message) in [
            ("x", r#"netip.ParsePrefix("x"): no '/'"#),
            ("x/8", r#"netip.ParsePrefix("x/8"): ParseAddr("x"): unable to parse IP"#),
            ("1.1.1.1/33", r#"netip.ParsePrefix("1.1.1.1/33"): prefix length out of range"#),
            ("1.1.1.1/08", r#"netip.ParsePrefix("1.1.1.1/08"): bad bits after slash: "08""#),
            ("1.1.1.1/", r#"netip.ParsePrefix("1.1.1.1/"): bad bits after slash: """#),
        ] {
            let error = CidrSet::new(&["1.1.1.1", text]).unwrap_err();
            assert_eq!(error.to_string(), format!("parse [1]: {message}"));
        }
    }

    #[test]
    fn private_addresses() {
        for yes in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "224.0.0.1",
            "169.254.0.1",
            "0.0.0.0",
            "fc00::1",
            "::1",
            "ff02::1",
            "fe80::1",
            "::",
        ] {
            assert!(is_private(ip(yes)), "{yes}");
        }
        for no in
            ["8.8.8.8", "172.32.0.1", "100.64.0.1", "192.0.2.1", "2001:db8::1", "255.255.255.255"]
        {
            assert!(!is_private(ip(no)), "{no}");
        }
    }

    proptest! {
        #[test]
        fn same_as_naive_v4(nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..12), probes in prop::collection::vec(any::<u32>(), 8)) {
            let nets: Vec<ipnet::Ipv4Net> =
                nets.into_iter().map(|(ip, bits)| ipnet::Ipv4Net::new(ip.into(), bits).unwrap()).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            let set = CidrSet::new(&texts).unwrap();
            let parts: Vec<String> = set.prefixes().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            prop_assert_eq!(&CidrSet::new(&parts).unwrap(), &set);
            let edges = nets.iter().flat_map(|n| [u32::from(n.network()), u32::from(n.broadcast())]);
            for ip in edges.flat_map(|ip| [ip.wrapping_sub(1), ip, ip.wrapping_add(1)]).chain(probes) {
                let ip = Ipv4Addr::from(ip);
                prop_assert_eq!(set.contains(ip.into()), nets.iter().any(|n| n.contains(&ip)), "{}", ip);
            }
        }

        #[test]
        fn same_as_naive_v6(nets in prop::collection::vec((any::<u128>(), 0u8..=128), 0..12), probes in prop::collection::vec(any::<u128>(), 8)) {
            let nets: Vec<ipnet::Ipv6Net> =
                nets.into_iter().map(|(ip, bits)| ipnet::Ipv6Net::new(ip.into(), bits).unwrap()).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            let set = CidrSet::new(&texts).unwrap();
            let parts: Vec<String> = set.prefixes().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            prop_assert_eq!(&CidrSet::new(&parts).unwrap(), &set);
            let edges = nets.iter().flat_map(|n| [u128::from(n.network()), u128::from(n.broadcast())]);
            for ip in edges.flat_map(|ip| [ip.wrapping_sub(1), ip, ip.wrapping_add(1)]).chain(probes) {
                let ip = Ipv6Addr::from(ip);
                prop_assert_eq!(set.contains(ip.into()), nets.iter().any(|n| n.contains(&ip)), "{}", ip);
            }
        }

        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = CidrSet::new(&[text]);
        }
    }
}
