//! Sets of addresses as `.srs` files hold them: ranges, first and last address, sorted, IPv4 before IPv6.
//!
//! Source: the reference's `common/srs/ip_set.go` and Go's `netipx.IPSet`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crosspoint_schema::decode::{Addr, Prefix};

use super::{
    FormatError,
    bytes::{Reader, put_uvarint},
};

/// Ranges of addresses in the order of their file, which sorts them. IPv4 and IPv6 never mix; `::ffff:0:0/96` is IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpRanges {
    /// First and last addresses of IPv4 ranges.
    pub v4: Vec<(u32, u32)>,
    /// First and last addresses of IPv6 ranges.
    pub v6: Vec<(u128, u128)>,
}

impl IpRanges {
    /// The ranges of prefixes and addresses, merged where they overlap or touch. The zone of an address does not count.
    ///
    /// # Errors
    /// The first text that is neither, in the reference's words.
    pub(super) fn parse(texts: &[String]) -> Result<Self, FormatError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            let Prefix { addr, bits } = parse(text)
                .map_err(|error| FormatError::Message(format!("parse [{index}]: {error}")))?;
            match addr {
                IpAddr::V4(ip) => {
                    let host = u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
                    v4.push((u32::from(ip) & !host, u32::from(ip) | host));
                }
                IpAddr::V6(ip) => {
                    let host = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
                    v6.push((u128::from(ip) & !host, u128::from(ip) | host));
                }
            }
        }
        Ok(Self {
            v4: merge(v4, |end| end.checked_add(1)),
            v6: merge(v6, |end| end.checked_add(1)),
        })
    }

    /// The set as prefixes, as few as can be, in the order of the ranges.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let v4 = self.v4.iter().flat_map(|&(from, to)| split(from.into(), to.into(), 32));
        let v6 = self.v6.iter().flat_map(|&(from, to)| split(from, to, 128));
        v4.map(|(ip, bits)| Prefix { addr: Ipv4Addr::from(ip as u32).into(), bits })
            .chain(v6.map(|(ip, bits)| Prefix { addr: Ipv6Addr::from(ip).into(), bits }))
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        if reader.u8()? != 1 {
            return Err(reader.error("invalid argument: unknown version of an address set"));
        }
        let count = reader.u64()?;
        // Two lengths and two IPv4 addresses.
        let count = reader.fits(count, 10)?;
        let mut ranges = Self::default();
        for index in 0..count {
            let within = |error: FormatError| error.within(format_args!("[{index}]"));
            let from = address(reader).map_err(|error| within(error.within("From")))?;
            let to = address(reader).map_err(|error| within(error.within("To")))?;
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) if from <= to => {
                    ranges.v4.push((from.into(), to.into()));
                }
                (IpAddr::V6(from), IpAddr::V6(to)) if from <= to => {
                    ranges.v6.push((from.into(), to.into()));
                }
                _ => return Err(within(reader.error("invalid address range"))),
            }
        }
        Ok(ranges)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(1);
        out.extend_from_slice(&((self.v4.len() + self.v6.len()) as u64).to_be_bytes());
        let mut put = |bytes: &[u8]| {
            put_uvarint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        for (from, to) in &self.v4 {
            put(&from.to_be_bytes());
            put(&to.to_be_bytes());
        }
        for (from, to) in &self.v6 {
            put(&from.to_be_bytes());
            put(&to.to_be_bytes());
        }
    }
}

fn address(reader: &mut Reader<'_>) -> Result<IpAddr, FormatError> {
    let length = reader.count(1)?;
    let start = reader.position();
    let bytes = reader.take(length)?;
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        Ok(four.into())
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        Ok(sixteen.into())
    } else {
        Err(FormatError::at(start, format!("an address of {length} bytes")))
    }
}

/// A prefix, or an address as the prefix of its full length. An address that is refused is explained as the prefix that
/// it is not.
fn parse(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text)
        .or_else(|error| Addr::parse(text).map(|addr| Prefix::host(addr.ip)).map_err(|_| error))
}

fn merge<N: Ord + Copy>(mut ranges: Vec<(N, N)>, after: impl Fn(N) -> Option<N>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if after(last.1).is_none_or(|next| from <= next) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// The fewest prefixes that make up a range of addresses `width` bits wide.
fn split(from: u128, to: u128, width: u8) -> impl Iterator<Item = (u128, u8)> {
    let mut next = Some(from);
    std::iter::from_fn(move || {
        let at = next.filter(|at| *at <= to)?;
        // As many host bits as the alignment of `at` and the rest of the range allow.
        let aligned = at.trailing_zeros().min(u32::from(width));
        let room = (to - at).checked_add(1).map_or(u32::from(width), u128::ilog2);
        let host = aligned.min(room);
        next = 1u128.checked_shl(host).and_then(|size| at.checked_add(size));
        Some((at, width - host as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(texts: &[&str]) -> IpRanges {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        IpRanges::parse(&texts).unwrap()
    }

    fn prefixes(ranges: &IpRanges) -> Vec<String> {
        ranges.prefixes().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn merges_and_splits() {
        let set = ranges(&["::1", "10.0.1.0/24", "10.0.0.77/24", "10.0.2.0", "::ffff:1.2.3.4/120"]);
        assert_eq!(prefixes(&set), ["10.0.0.0/23", "10.0.2.0/32", "::1/128", "::ffff:1.2.3.0/120"]);
        assert_eq!(prefixes(&ranges(&["0.0.0.0/0", "::/0"])), ["0.0.0.0/0", "::/0"]);
        assert_eq!(
            prefixes(&ranges(&["fe80::1%a", "fe80::1%b", "fe80::2%a/8"])),
            ["fe80::1/128", "fe80::2/128"]
        );
    }

    #[test]
    fn refuses() {
        let bad = ["1.1.1.1".to_owned(), "x".to_owned()];
        let error = IpRanges::parse(&bad).unwrap_err().to_string();
        assert_eq!(error, r#"parse [1]: netip.ParsePrefix("x"): no '/'"#);
        for bytes in [
            &[2][..],
            &[1, 0xff, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 1, 4, 1, 1, 1, 2, 4, 1, 1, 1, 1],
            &[1, 0, 0, 0, 0, 0, 0, 0, 1, 3, 1, 1, 1, 4, 1, 1, 1, 1, 0],
        ] {
            assert!(IpRanges::read(&mut Reader::new(bytes)).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read(nets in prop::collection::vec((any::<[u8; 16]>(), 0u8..=128, any::<bool>()), 0..20)) {
            let texts: Vec<String> = nets.iter().map(|(ip, bits, six)| match six {
                true => format!("{}/{bits}", Ipv6Addr::from(*ip)),
                false => format!("{}.{}.{}.{}/{}", ip[0], ip[1], ip[2], ip[3], bits % 33),
            }).collect();
            let set = IpRanges::parse(&texts).unwrap();
            let mut out = Vec::new();
            set.write(&mut out);
            prop_assert_eq!(&IpRanges::read(&mut Reader::new(&out)).unwrap(), &set);
            let texts: Vec<String> = prefixes(&set);
            prop_assert_eq!(IpRanges::parse(&texts).unwrap(), set);
        }
    }
}
