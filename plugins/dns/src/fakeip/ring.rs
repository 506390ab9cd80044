//! The addresses of one family in the order in which they are given out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crosspoint_schema::decode::Prefix;

/// At most this many addresses of a range are used, so that names cannot fill the memory: all of 198.18.0.0/15.
pub(super) const MOST: u128 = 1 << 17;

/// Neighbouring addresses of a range. The two lowest ones of the range are never given out, and the first one to be
/// given out is the fourth, as in the reference; the third one comes first when the end is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    low: u128,
    high: u128,
    v4: bool,
}

impl Ring {
    /// The ring of a range. The address of the prefix is where it begins, even if it has bits behind the prefix.
    ///
    /// # Errors
    /// It has no room for a single name.
    pub(super) fn new(range: Prefix) -> Result<Self, String> {
        let (base, width) = number(range.addr);
        let host_bits = width.saturating_sub(u32::from(range.bits));
        let mask = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        let end = base | mask;
        match base.checked_add(2) {
            Some(low) if low <= end => {
                Ok(Self { low, high: end.min(low.saturating_add(MOST - 1)), v4: width == 32 })
            }
            _ => Err(format!("no room for fake addresses in {range}")),
        }
    }

    /// Where to begin: as if this one had been given out.
    pub(super) fn start(&self) -> IpAddr {
        self.ip(self.low)
    }

    /// The address behind `last`.
    pub(super) fn after(&self, last: IpAddr) -> IpAddr {
        let (last, _) = number(last);
        let next = if (self.low..self.high).contains(&last) { last + 1 } else { self.low };
        self.ip(next)
    }

    /// Whether it may be given out.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.v4 && (self.low..=self.high).contains(&number(ip).0)
    }

    fn ip(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.v4 => Ipv4Addr::from(number).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }
}

/// An address as a number, and its bits.
fn number(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (ip.into(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(text: &str) -> Result<Ring, String> {
        Ring::new(Prefix::parse(text).unwrap())
    }

    fn walk(text: &str, steps: usize) -> Vec<String> {
        let ring = ring(text).unwrap();
        let mut last = ring.start();
        let next = || {
            last = ring.after(last);
            assert!(ring.contains(last));
            last.to_string()
        };
        std::iter::repeat_with(next).take(steps).collect()
    }

    #[test]
    fn the_fourth_address_is_the_first() {
        assert_eq!(walk("198.18.0.0/15", 2), ["198.18.0.3", "198.18.0.4"]);
        assert_eq!(walk("fc00::/18", 2), ["fc00::3", "fc00::4"]);
        assert_eq!(walk("10.0.0.0/29", 7)[4..], ["10.0.0.7", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(walk("10.0.0.0/30", 3), ["10.0.0.3", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(walk("10.0.0.5/29", 2), ["10.0.0.7", "10.0.0.7"]);
        assert_eq!(walk("0.0.0.0/0", 1), ["0.0.0.3"]);
        assert_eq!(walk("::/0", 1), ["::3"]);
        assert_eq!(
            walk("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124", 14)[13],
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff2"
        );
    }

    #[test]
    fn a_range_without_room_is_refused() {
        for text in [
            "10.0.0.0/32",
            "10.0.0.0/31",
            "10.0.0.6/29",
            "255.255.255.255/8",
            "fc00::/127",
            "ffff::ffff/112",
        ] {
            assert!(ring(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_large_range_is_used_in_part() {
        let ring = ring("10.0.0.0/8").unwrap();
        let last: IpAddr = Ipv4Addr::from(0x0a00_0001 + MOST as u32).into();
        assert!(ring.contains(last));
        assert_eq!(ring.after(last).to_string(), "10.0.0.2");
        // A place from another time.
        assert_eq!(ring.after("10.200.0.1".parse().unwrap()).to_string(), "10.0.0.2");
    }
}
