//! DHCPv4 messages (RFC 2131, RFC 2132), as far as they tell of DNS servers. Reads bytes and writes bytes.

use std::{net::Ipv4Addr, time::Duration};

/// Largest message that we are ready for, in bytes.
pub const MAX_MESSAGE: u16 = 1500;

/// Fixed fields, with the cookie that says that options follow.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Servers and relays of old drop shorter messages (RFC 1542 §2.1).
const MIN_MESSAGE: usize = 300;

/// More of either are ignored.
const MAX_SERVERS: usize = 16;
const MAX_DOMAINS: usize = 16;

/// Option codes.
mod code {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const TYPE: u8 = 53;
    pub(super) const WANTED: u8 = 55;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const END: u8 = 255;
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who would give me a lease?
    Discover = 1,
    /// I would.
    Offer = 2,
    /// You have it.
    Ack = 5,
    /// I have an address; tell me the rest.
    Inform = 8,
}

/// A question of ours.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// [`Kind::Discover`] or [`Kind::Inform`].
    pub kind: Kind,
    /// Answers carry it.
    pub transaction: u32,
    /// Seconds since the first try.
    pub seconds: u16,
    /// Hardware address of the interface; at most 16 bytes count.
    pub hardware: &'a [u8],
    /// Our own address, if we have one; only for [`Kind::Inform`].
    pub address: Option<Ipv4Addr>,
}

impl Request<'_> {
    /// The message. A discovery asks for an answer by broadcast, because the interface may have no address yet.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let hardware = &self.hardware[..self.hardware.len().min(16)];
        let broadcast = self.kind == Kind::Discover;
        let mut out = vec![0; FIXED];
        out[0] = 1; // a request
        out[1] = 1; // Ethernet
        out[2] = hardware.len() as u8;
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        out[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        out[10] = if broadcast { 0x80 } else { 0 };
        out[12..16].copy_from_slice(&self.address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out[28..28 + hardware.len()].copy_from_slice(hardware);
        out[236..].copy_from_slice(&COOKIE);
        out.extend([code::TYPE, 1, self.kind as u8]);
        let wanted = [code::SUBNET_MASK, code::ROUTER, code::DOMAIN, code::DNS, code::SEARCH];
        out.extend([code::WANTED, wanted.len() as u8]);
        out.extend(wanted);
        out.extend([code::MAX_SIZE, 2]);
        out.extend(MAX_MESSAGE.to_be_bytes());
        out.push(code::END);
        out.resize(out.len().max(MIN_MESSAGE), 0);
        out
    }
}

/// What a server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The transaction that it belongs to.
    pub transaction: u32,
    /// Offer or acknowledgement; `None` for anything else.
    pub kind: Option<Kind>,
    /// DNS servers, in order.
    pub servers: Vec<Ipv4Addr>,
    /// Domains to complete short names with, without the final dot: the search list, else the domain name.
    pub search: Vec<String>,
    /// How long all this holds.
    pub lease: Option<Duration>,
}

impl Reply {
    /// Reads a message; `None` for what is no answer of a DHCP server.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (fixed, options) = message.split_at_checked(FIXED)?;
        if fixed[0] != 2 || fixed[236..] != COOKIE {
            return None;
        }
        let mut found = Found::default();
        found.read(options)?;
        // Options may go on in fields that are not needed otherwise: file first, then name of the server.
        let overload = found.overload;
        if overload & 1 != 0 {
            found.read(&fixed[108..236])?;
        }
        if overload & 2 != 0 {
            found.read(&fixed[44..108])?;
        }
        let addresses = found.dns.chunks_exact(4).take(MAX_SERVERS);
        let mut search = domains(&found.search);
        if search.is_empty() {
            search.extend(domain(&found.domain));
        }
        Some(Self {
            transaction: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            kind: match found.kind {
                2 => Some(Kind::Offer),
                5 => Some(Kind::Ack),
                _ => None,
            },
            servers: addresses.map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3])).collect(),
            search,
            lease: found.lease.map(|seconds| Duration::from_secs(seconds.into())),
        })
    }
}

/// Options, put together where they come in pieces (RFC 3396).
#[derive(Default)]
struct Found {
    kind: u8,
    overload: u8,
    dns: Vec<u8>,
    domain: Vec<u8>,
    search: Vec<u8>,
    lease: Option<u32>,
}

impl Found {
    fn read(&mut self, mut options: &[u8]) -> Option<()> {
        while let Some((&tag, rest)) = options.split_first() {
            options = match tag {
                code::PAD => rest,
                code::END => return Some(()),
                _ => {
                    let (&length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(length.into())?;
                    self.take(tag, value);
                    rest
                }
            };
        }
        // Some servers leave the end out.
        Some(())
    }

    fn take(&mut self, tag: u8, value: &[u8]) {
        match (tag, value) {
            (code::TYPE, [kind]) => self.kind = *kind,
            (code::OVERLOAD, [which]) => self.overload = *which,
            (code::LEASE_TIME, &[a, b, c, d]) => {
                self.lease = Some(u32::from_be_bytes([a, b, c, d]))
            }
            (code::DNS, _) => self.dns.extend(value),
            (code::DOMAIN, _) => self.domain.extend(value),
            (code::SEARCH, _) => self.search.extend(value),
            _ => {}
        }
    }
}

/// The domain in option 15: text.
fn domain(value: &[u8]) -> Option<String> {
    let text = str::from_utf8(value).ok()?.trim_end_matches('\0').trim_matches('.');
    let fits = text.len() <= 253 && text.split('.').all(|label| is_label(label.as_bytes()));
    fits.then(|| text.to_owned())
}

/// The domains in option 119: names as in DNS messages, with pointers into the option (RFC 3397). Ends at the first
/// one that is none.
fn domains(value: &[u8]) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < value.len() && found.len() < MAX_DOMAINS {
        let Some((name, next)) = name(value, at) else { break };
        if !name.is_empty() {
            found.push(name);
        }
        at = next;
    }
    found
}

/// A name, and where what follows it begins.
fn name(value: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut name, mut at, mut next) = (String::new(), start, None);
    // A pointer leads back: to before the place where the part that holds it begins.
    let mut part = start;
    loop {
        let length = usize::from(*value.get(at)?);
        match length {
            0 => return Some((name, next.unwrap_or(at + 1))),
            1..=63 => {
                let label = value.get(at + 1..at + 1 + length).filter(|label| is_label(label))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|byte| char::from(*byte)));
                if name.len() > 253 {
                    return None;
                }
                at += 1 + length;
            }
            0xc0.. => {
                let target = (length & 0x3f) << 8 | usize::from(*value.get(at + 1)?);
                if target >= part {
                    return None;
                }
                next = next.or(Some(at + 2));
                (at, part) = (target, target);
            }
            _ => return None,
        }
    }
}

/// Whether it can stand in a name without an escape.
fn is_label(label: &[u8]) -> bool {
    (1..=63).contains(&label.len())
        && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An offer with these options.
    fn offer(options: &[u8]) -> Vec<u8> {
        let mut bytes = Request {
            kind: Kind::Discover,
            transaction: 0x0102_0304,
            seconds: 0,
            hardware: &[2, 0, 0, 0, 0, 1],
            address: None,
        }
        .to_bytes();
        bytes.truncate(FIXED);
        bytes[0] = 2;
        bytes.extend([53, 1, 2]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_discovery_has_the_form_of_the_rfc() {
        let request = Request {
            kind: Kind::Discover,
            transaction: 0x0102_0304,
            seconds: 7,
            hardware: &[2, 0, 0, 0, 0, 1],
            address: None,
        };
        let bytes = request.to_bytes();
        assert_eq!(bytes.len(), 300);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 7, 0x80, 0]);
        assert_eq!(bytes[28..34], [2, 0, 0, 0, 0, 1]);
        assert_eq!(
            bytes[236..254],
            [99, 130, 83, 99, 53, 1, 1, 55, 5, 1, 3, 15, 6, 119, 57, 2, 5, 220]
        );
        let inform = Request { kind: Kind::Inform, address: Some([10, 0, 0, 2].into()), ..request };
        assert_eq!(inform.to_bytes()[10..16], [0, 0, 10, 0, 0, 2]);
        assert!(Reply::parse(&bytes).is_none(), "a request is no answer");
        let long = Request { hardware: &[9; 40], ..request }.to_bytes();
        assert_eq!((long[2], long.len()), (16, 300));
    }

    #[test]
    fn an_offer_names_servers_and_domains() {
        let reply = Reply::parse(&offer(
            b"\x06\x08\x0a\0\0\x01\x0a\0\0\x02\x0f\x03lan\x33\x04\0\0\x0e\x10\xff",
        ))
        .unwrap();
        let expected = Reply {
            transaction: 0x0102_0304,
            kind: Some(Kind::Offer),
            servers: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            search: vec!["lan".to_owned()],
            lease: Some(Duration::from_secs(3600)),
        };
        assert_eq!(reply, expected);
        // The list of RFC 3397 §2, in two pieces as there.
        let list = b"\x77\x0a\x03eng\x05apple\x77\x11\x03com\0\x09marketing\xc0\x04\x0f\x03lan";
        let reply = Reply::parse(&offer(list)).unwrap();
        assert_eq!(reply.search, ["eng.apple.com", "marketing.apple.com"]);
    }

    #[test]
    fn options_may_stand_in_other_fields() {
        let mut bytes = offer(b"\x34\x01\x03\xff");
        bytes[108..115].copy_from_slice(b"\x06\x04\x0a\0\0\x01\xff");
        bytes[44..49].copy_from_slice(b"\x0f\x02ab\xff");
        let reply = Reply::parse(&bytes).unwrap();
        assert_eq!((reply.servers.len(), &*reply.search), (1, &["ab".to_owned()][..]));
        bytes[242] = 6; // the type: a refusal
        assert_eq!(Reply::parse(&bytes).unwrap().kind, None);
    }

    #[test]
    fn what_is_broken_is_refused_or_left_out() {
        assert!(Reply::parse(&[2; 239]).is_none());
        assert!(Reply::parse(&offer(b"\x06\x08\x0a")).is_none(), "cut off");
        assert_eq!(Reply::parse(&offer(b"\x06\x06\x0a\0\0\x01\x0a\0")).unwrap().servers.len(), 1);
        assert_eq!(Reply::parse(&offer(&[6, 0, 0, 0])).unwrap().servers.len(), 0);
        for bad in [
            &b"\x77\x02\xc0\0"[..],
            b"\x77\x04\x01a\xc0\0",
            b"\x77\x02\x40\x01",
            b"\x0f\x03a b",
            b"\x77\x03\x05ab",
        ] {
            assert!(Reply::parse(&offer(bad)).unwrap().search.is_empty(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(
            options in prop::collection::vec(any::<u8>(), 0..200),
            tag in prop::sample::select(vec![6u8, 15, 52, 119]),
        ) {
            let mut bytes = offer(&[tag, u8::try_from(options.len()).unwrap_or(0)]);
            bytes.extend(&options);
            if let Some(reply) = Reply::parse(&bytes) {
                for domain in &reply.search {
                    prop_assert!(domain.len() <= 253 && !domain.is_empty());
                }
            }
            let _ = Reply::parse(&[&bytes[..FIXED - 20], &options].concat());
        }
    }
}
