//! Messages of rtnetlink: the headers of `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h` and
//! `linux/if_addr.h`. Numbers are in the order of this machine. Unknown messages and attributes are passed over,
//! cut ones end the reading.

pub mod setup;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Groups of changes to listen to: links, addresses and routes of both families (`RTMGRP_*`).
pub const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// Interfaces.
    Links,
    /// Addresses of interfaces.
    Addresses,
    /// Routes of one family.
    Routes4,
    /// Routes of the other one.
    Routes6,
    /// Policy rules of IPv6.
    Rules6,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An interface.
    Link {
        /// Its number.
        index: u32,
        /// Its name.
        name: Box<str>,
        /// Administratively up.
        up: bool,
        /// Has gone.
        gone: bool,
    },
    /// An address of an interface.
    Address {
        /// Number of the interface.
        index: u32,
        /// The address itself.
        own: IpAddr,
        /// What can be reached directly: an address and the length of its prefix.
        on_link: (IpAddr, u8),
    },
    /// A default route of the main table.
    DefaultRoute {
        /// Of IPv6.
        v6: bool,
        /// Number of the interface.
        index: u32,
        /// The lower, the better.
        metric: u32,
        /// The interface has no carrier.
        dead: bool,
    },
    /// Some other route.
    OtherRoute,
    /// A policy rule.
    Rule(Rule),
    /// The answer is complete.
    Done {
        /// It is not of one moment: ask again.
        torn: bool,
    },
    /// The system refuses, with this error number.
    Error(i32),
    /// Anything else.
    Other,
}

/// A policy rule that sends what leaves through one interface to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The lower, the earlier it is asked; 0 is the one of local addresses.
    pub priority: u32,
    /// Name of the interface that sockets are bound to; `None`: any.
    pub output: Option<Box<str>>,
    /// Number of the table.
    pub table: u32,
    /// Who has made it (`RTPROT_*`).
    pub origin: u8,
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;

const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`.
const NLM_F_DUMP: u16 = 0x1 | 0x100 | 0x200;

const IFF_UP: u32 = 0x1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u32 = 254;
const RTN_UNICAST: u8 = 1;
const RTM_F_CLONED: u32 = 0x200;
/// `RTNH_F_DEAD | RTNH_F_LINKDOWN`.
const NEXT_HOP_DOWN: u32 = 0x1 | 0x10;

const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
const FRA_PROTOCOL: u16 = 21;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const HEADER: usize = 16;

/// The request for a dump.
pub fn request(what: Dump, sequence: u32) -> Vec<u8> {
    let (kind, family, body) = match what {
        Dump::Links => (RTM_GETLINK, 0, 16),
        Dump::Addresses => (RTM_GETADDR, 0, 8),
        Dump::Routes4 => (RTM_GETROUTE, AF_INET, 12),
        Dump::Routes6 => (RTM_GETROUTE, AF_INET6, 12),
        Dump::Rules6 => (RTM_GETRULE, AF_INET6, 12),
    };
    let mut bytes = Vec::with_capacity(HEADER + body);
    bytes.extend(((HEADER + body) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(NLM_F_DUMP.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.push(family);
    bytes.resize(HEADER + body, 0);
    bytes
}

/// The messages of one datagram, each with its sequence number.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (u32, Message)> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let body = rest.get(HEADER..length)?;
        let (kind, flags, sequence) = (u16_at(rest, 4)?, u16_at(rest, 6)?, u32_at(rest, 8)?);
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((sequence, message(kind, flags, body).unwrap_or(Message::Other)))
    })
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Option<Message> {
    match kind {
        NLMSG_DONE => Some(Message::Done { torn: flags & NLM_F_DUMP_INTR != 0 }),
        NLMSG_ERROR => match i32::from_ne_bytes(*body.first_chunk()?) {
            0 => Some(Message::Done { torn: false }),
            number => Some(Message::Error(number.saturating_neg())),
        },
        NLMSG_OVERRUN => Some(Message::Done { torn: true }),
        RTM_NEWLINK | RTM_DELLINK => link(body, kind == RTM_DELLINK),
        RTM_NEWADDR | RTM_DELADDR => address(body),
        RTM_NEWROUTE | RTM_DELROUTE => Some(route(body).unwrap_or(Message::OtherRoute)),
        RTM_NEWRULE => rule(body).map(Message::Rule),
        _ => None,
    }
}

/// `struct ifinfomsg`: family, padding, type (2), index (4), flags (4), change (4).
fn link(body: &[u8], gone: bool) -> Option<Message> {
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let (_, name) = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = text(name)?;
    Some(Message::Link { index, name, up: flags & IFF_UP != 0, gone })
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index (4).
fn address(body: &[u8]) -> Option<Message> {
    let (&bits, index) = (body.get(1)?, u32_at(body, 4)?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    // On a link of two, the one is ours and the other one is the peer's.
    let on_link = address.or(local)?;
    Some(Message::Address { index, own: local.unwrap_or(on_link), on_link: (on_link, bits) })
}

/// `struct rtmsg`: family, destination bits, source bits, TOS, table, protocol, scope, type, flags (4).
fn route(body: &[u8]) -> Option<Message> {
    let &[family, destination, source, _, table, _, _, kind, ..] = body else { return None };
    let flags = u32_at(body, 8)?;
    if destination != 0 || source != 0 || kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let (mut table, mut metric, mut hop) = (u32::from(table), 0, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_TABLE => table = u32_at(value, 0)?,
            RTA_PRIORITY => metric = u32_at(value, 0)?,
            RTA_OIF => hop = Some((u32_at(value, 0)?, flags & NEXT_HOP_DOWN != 0)),
            RTA_MULTIPATH => hop = best_hop(value).or(hop),
            _ => {}
        }
    }
    let (index, dead) = hop?;
    let v6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return None,
    };
    (table == RT_TABLE_MAIN).then_some(Message::DefaultRoute { v6, index, metric, dead })
}

/// `struct fib_rule_hdr`: family, destination bits, source bits, TOS, table, two reserved, action, flags (4).
fn rule(body: &[u8]) -> Option<Rule> {
    let mut rule = Rule { table: u32::from(*body.get(4)?), ..Rule::default() };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
            FRA_TABLE => rule.table = u32_at(value, 0)?,
            FRA_OIFNAME => rule.output = Some(text(value)?),
            FRA_PROTOCOL => rule.origin = *value.first()?,
            _ => {}
        }
    }
    Some(rule)
}

/// The first way that works among several, else the first. `struct rtnexthop`: length (2), flags, hops, index (4).
fn best_hop(mut rest: &[u8]) -> Option<(u32, bool)> {
    let mut first = None;
    while let (Some(length), Some(&flags), Some(index)) =
        (u16_at(rest, 0), rest.get(2), u32_at(rest, 4))
    {
        let dead = u32::from(flags) & NEXT_HOP_DOWN != 0;
        if !dead {
            return Some((index, false));
        }
        first = first.or(Some((index, true)));
        let length = usize::from(length);
        if length < 8 {
            break;
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    first
}

/// `struct rtattr`: length (2), type (2), value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let (kind, value) = (u16_at(rest, 2)?, rest.get(4..length)?);
        rest = rest.get(aligned(length)..).unwrap_or_default();
        // The two upper bits tell how the value is coded.
        Some((kind & 0x3fff, value))
    })
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> Option<Box<str>> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    Some(std::str::from_utf8(bytes).ok()?.into())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
