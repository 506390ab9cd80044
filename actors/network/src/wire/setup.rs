//! Requests that change something. Each is acknowledged.

use std::net::IpAddr;

use super::{
    AF_INET, AF_INET6, FRA_OIFNAME, FRA_PRIORITY, FRA_PROTOCOL, FRA_TABLE, HEADER, IFA_ADDRESS,
    IFA_LOCAL, IFF_UP, RTA_OIF, RTA_TABLE, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE,
    RTM_NEWRULE, RTN_UNICAST, Rule, aligned,
};

const RTM_DELRULE: u16 = 33;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const DO: u16 = 0x1 | 0x4;
/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;
/// `NLM_F_REPLACE`: what is there already is no error.
const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: what is there already is one.
const ONLY: u16 = 0x200;

const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`.
const NO_LINK_LOCAL: u8 = 1;
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`: usable at once.
const NO_DAD: u8 = 0x02;
const RTA_DST: u16 = 1;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;

/// Who has made our routes and rules (`RTPROT_*`; those from 5 are free for daemons, and no daemon known has this one).
pub const ORIGIN: u8 = 197;

/// A message in the making.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((DO | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        debug_assert_eq!(bytes.len(), HEADER);
        bytes.extend(body);
        Self(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.0, kind, value);
        self
    }

    fn done(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// `struct rtattr`: length (2), type (2), value, and zeroes up to a multiple of 4.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    attribute(&mut bytes, kind, value);
    bytes
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `struct ifinfomsg`: family, padding, type (2), index (4), flags (4), change (4).
fn link(index: u32, flags: u32, sequence: u32) -> Request {
    let words = [0, index, flags, flags];
    Request::new(RTM_NEWLINK, 0, sequence, &words.map(u32::to_ne_bytes).concat())
}

/// Sets the largest packet of an interface.
pub fn mtu(index: u32, mtu: u32, sequence: u32) -> Vec<u8> {
    link(index, 0, sequence).with(IFLA_MTU, &mtu.to_ne_bytes()).done()
}

/// Takes an interface into service.
pub fn up(index: u32, sequence: u32) -> Vec<u8> {
    link(index, IFF_UP, sequence).done()
}

/// Forbids an address of IPv6 that nobody has configured, and the messages that come with it.
pub fn no_link_local(index: u32, sequence: u32) -> Vec<u8> {
    let mode = nested(IFLA_INET6_ADDR_GEN_MODE, &[NO_LINK_LOCAL]);
    link(index, 0, sequence).with(IFLA_AF_SPEC, &nested(AF_INET6.into(), &mode)).done()
}

/// Gives an interface an address, in a network of `bits` that is reached directly. `struct ifaddrmsg`: family, prefix
/// length, flags, scope, index (4).
pub fn address(
    index: u32,
    own: IpAddr,
    bits: u8,
    broadcast: Option<IpAddr>,
    sequence: u32,
) -> Vec<u8> {
    let (family, flags) = match own {
        IpAddr::V4(_) => (AF_INET, 0),
        IpAddr::V6(_) => (AF_INET6, NO_DAD),
    };
    let body = [&[family, bits, flags, 0], &index.to_ne_bytes()[..]].concat();
    let own = octets(own);
    let request = Request::new(RTM_NEWADDR, CREATE | REPLACE, sequence, &body);
    let request = request.with(IFA_LOCAL, &own).with(IFA_ADDRESS, &own);
    match broadcast {
        Some(last) => request.with(IFA_BROADCAST, &octets(last)).done(),
        None => request.done(),
    }
}

/// A route of a table that leads through an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub network: (IpAddr, u8),
    /// Number of the interface.
    pub index: u32,
    /// Number of the table.
    pub table: u32,
}

/// Adds a route, or takes one away. `struct rtmsg`: family, destination bits, source bits, TOS, table, protocol, scope,
/// type, flags (4).
pub fn route(route: &Route, add: bool, sequence: u32) -> Vec<u8> {
    let Route { network: (network, bits), index, table } = *route;
    let family = if network.is_ipv4() { AF_INET } else { AF_INET6 };
    let body = [family, bits, 0, 0, 0, ORIGIN, 0, RTN_UNICAST, 0, 0, 0, 0];
    let (kind, flags) = if add { (RTM_NEWROUTE, CREATE | REPLACE) } else { (RTM_DELROUTE, 0) };
    Request::new(kind, flags, sequence, &body)
        .with(RTA_DST, &octets(network))
        .with(RTA_OIF, &index.to_ne_bytes())
        .with(RTA_TABLE, &table.to_ne_bytes())
        .done()
}

/// Adds a policy rule of IPv6, or takes one away that is just so. `struct fib_rule_hdr`: family, destination bits, source
/// bits, TOS, table, two reserved, action, flags (4).
pub fn rule6(rule: &Rule, add: bool, sequence: u32) -> Vec<u8> {
    let body = [AF_INET6, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let (kind, flags) = if add { (RTM_NEWRULE, CREATE | ONLY) } else { (RTM_DELRULE, 0) };
    let mut request = Request::new(kind, flags, sequence, &body);
    if let Some(name) = &rule.output {
        request = request.with(FRA_OIFNAME, &[name.as_bytes(), &[0]].concat());
    }
    request
        .with(FRA_PRIORITY, &rule.priority.to_ne_bytes())
        .with(FRA_TABLE, &rule.table.to_ne_bytes())
        .with(FRA_PROTOCOL, &[rule.origin])
        .done()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Message, RT_TABLE_MAIN, messages},
        *,
    };

    #[test]
    fn what_is_asked_for_reads_back() {
        let one = |bytes: &[u8]| {
            let mut read = messages(bytes);
            let message = read.next().unwrap();
            assert_eq!(read.next(), None);
            message
        };
        let rule = Rule { priority: 9, output: Some("wg0".into()), table: 70_000, origin: ORIGIN };
        assert_eq!(one(&rule6(&rule, true, 3)), (3, Message::Rule(rule.clone())));
        let rule = Rule { output: None, ..rule };
        assert_eq!(one(&rule6(&rule, true, 3)), (3, Message::Rule(rule)));
        let own: IpAddr = "fd00::1".parse().unwrap();
        let read = Message::Address { index: 4, own, on_link: (own, 64) };
        assert_eq!(one(&address(4, own, 64, None, 1)), (1, read));
        let route6 = Route { network: (own, 0), index: 4, table: RT_TABLE_MAIN };
        let read = Message::DefaultRoute { v6: true, index: 4, metric: 0, dead: false };
        assert_eq!(one(&route(&route6, true, 1)), (1, read));
    }
}
