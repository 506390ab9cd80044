//! Rules as they are matched.

use std::{borrow::Cow, net::IpAddr};

use crosspoint_kernel::{
    addr::Host,
    session::{Network, Process, Session},
};
use regex::Regex;

use crate::{
    device::Device,
    item::{CidrSet, DomainSet, Keywords, PortSet, TextSet, is_private},
    names::lowered,
};

/// What rules are matched against: a session and what was derived from it. Made anew whenever an action
/// has changed the session.
pub(crate) struct Cx<'a> {
    session: &'a Session,
    /// Whether the destination was IPv6 when routing began; `None` for a name.
    ipv6: Option<bool>,
    /// The sniffed domain, else the name in the destination, in lower case.
    domain: Option<Cow<'a, str>>,
    device: &'a Device,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(session: &'a Session, ipv6: Option<bool>, device: &'a Device) -> Self {
        let sniffed = session.domain.as_deref().filter(|domain| !domain.is_empty());
        let named = || session.target.host.name().filter(|name| !name.is_empty());
        let domain = sniffed
            .or_else(named)
            .map(|domain| lowered(domain).map_or(Cow::Borrowed(domain), Cow::Owned));
        Self { session, ipv6, domain, device }
    }

    pub(crate) fn session(&self) -> &'a Session {
        self.session
    }

    pub(crate) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    fn process(&self) -> Option<&'a Process> {
        self.session.process.as_deref()
    }

    /// The destination's address, or those that its name was resolved to.
    pub(crate) fn destinations(&self) -> &[IpAddr] {
        match &self.session.target.host {
            Host::Ip(ip) => std::slice::from_ref(ip),
            Host::Name(_) => &self.session.resolved,
        }
    }
}

/// One comparison.
#[derive(Debug)]
pub(crate) enum Item {
    Inbound(TextSet),
    Ipv6(bool),
    Network {
        tcp: bool,
        udp: bool,
    },
    AuthUser(TextSet),
    Protocol(TextSet),
    Client(TextSet),
    Domain(DomainSet),
    Keyword(Keywords),
    Regex(Box<[Regex]>),
    SourceCidr(CidrSet),
    SourcePrivate,
    Cidr(CidrSet),
    Private,
    SourcePort(PortSet),
    Port(PortSet),
    ProcessName(TextSet),
    ProcessPath(TextSet),
    ProcessPathRegex(Box<[Regex]>),
    User(TextSet),
    UserId(Box<[i32]>),
    /// The network in use is one of these kinds; see [`Device`].
    NetworkType {
        wifi: bool,
    },
    WifiName(TextSet),
    /// What cannot be on this platform: packages, metered networks, a mode without Clash API.
    Never,
}

impl Item {
    fn matches(&self, cx: &Cx<'_>) -> bool {
        let session = cx.session;
        match self {
            Self::Inbound(set) => set.contains(&session.inbound.tag),
            Self::Ipv6(wanted) => {
                cx.ipv6 == Some(*wanted)
                    || session.target.host.ip().is_some_and(|ip| ip.is_ipv6() == *wanted)
            }
            Self::Network { tcp, udp } => match session.network {
                Network::Tcp => *tcp,
                Network::Udp => *udp,
            },
            // An empty text in these lists stands for "none".
            Self::AuthUser(set) => set.contains(session.user.as_deref().unwrap_or_default()),
            Self::Protocol(set) => set.contains(session.protocol.unwrap_or_default()),
            Self::Client(set) => set.contains(session.client.as_deref().unwrap_or_default()),
            Self::Domain(set) => cx.domain().is_some_and(|domain| set.contains(domain)),
            Self::Keyword(words) => cx.domain().is_some_and(|domain| words.is_in(domain)),
            Self::Regex(list) => {
                cx.domain().is_some_and(|domain| list.iter().any(|r| r.is_match(domain)))
            }
            Self::SourceCidr(set) => set.contains(session.source.ip()),
            Self::SourcePrivate => is_private(session.source.ip()),
            Self::Cidr(set) => cx.destinations().iter().any(|ip| set.contains(*ip)),
            Self::Private => cx.destinations().iter().any(|ip| is_private(*ip)),
            Self::SourcePort(set) => set.contains(session.source.port()),
            Self::Port(set) => set.contains(session.target.port),
            Self::ProcessName(set) => path(cx)
                .is_some_and(|path| set.contains(path.rsplit('/').next().unwrap_or_default())),
            Self::ProcessPath(set) => path(cx).is_some_and(|path| set.contains(path)),
            Self::ProcessPathRegex(list) => {
                path(cx).is_some_and(|path| list.iter().any(|r| r.is_match(path)))
            }
            Self::User(set) => {
                cx.process().and_then(|p| p.user.as_deref()).is_some_and(|user| set.contains(user))
            }
            // Identifiers are signed in the configuration and unsigned in the kernel.
            Self::UserId(list) => {
                cx.process().and_then(|p| p.uid).is_some_and(|uid| list.contains(&(uid as i32)))
            }
            Self::NetworkType { wifi } => *wifi && cx.device.has_default_route(),
            // Without a platform interface the name of the Wi-Fi network is always empty.
            Self::WifiName(set) => set.contains(""),
            Self::Never => false,
        }
    }
}

fn path<'a>(cx: &Cx<'a>) -> Option<&'a str> {
    cx.process().and_then(|process| process.path.as_deref()).filter(|path| !path.is_empty())
}

/// Which of the four OR-groups have matched. Rules reset it, branches of logical rules too; a rule-set
/// will share it with the rule that refers to it.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    source_address: bool,
    source_port: bool,
    address: bool,
    port: bool,
}

/// A rule with matchers: every group and every other item must match.
#[derive(Debug, Default)]
pub(crate) struct DefaultRule {
    pub(crate) items: Box<[Item]>,
    pub(crate) source_address: Box<[Item]>,
    pub(crate) source_port: Box<[Item]>,
    pub(crate) address: Box<[Item]>,
    pub(crate) port: Box<[Item]>,
    pub(crate) invert: bool,
}

impl DefaultRule {
    /// Whether there is nothing to compare: such a rule always matches, even inverted.
    pub(crate) fn is_empty(&self) -> bool {
        let groups =
            [&self.items, &self.source_address, &self.source_port, &self.address, &self.port];
        groups.iter().all(|group| group.is_empty())
    }

    fn matches(&self, cx: &Cx<'_>, groups: &mut Groups) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut any = |items: &[Item], flag: fn(&mut Groups) -> &mut bool| {
            let flag = flag(groups);
            *flag = *flag || items.iter().any(|item| item.matches(cx));
            items.is_empty() || *flag
        };
        // The cheap comparisons first: what fails, fails the rule whatever the rest says.
        let all = self.items.iter().all(|item| item.matches(cx))
            && any(&self.port, |g| &mut g.port)
            && any(&self.source_port, |g| &mut g.source_port)
            && any(&self.source_address, |g| &mut g.source_address)
            && any(&self.address, |g| &mut g.address);
        all != self.invert
    }
}

/// A rule.
#[derive(Debug)]
pub(crate) enum Rule {
    Default(DefaultRule),
    Logical { or: bool, rules: Box<[Rule]>, invert: bool },
}

impl Rule {
    /// Whether the rule matches.
    pub(crate) fn matches(&self, cx: &Cx<'_>) -> bool {
        match self {
            Self::Default(rule) => rule.matches(cx, &mut Groups::default()),
            Self::Logical { or: true, rules, invert } => {
                rules.iter().any(|rule| rule.matches(cx)) != *invert
            }
            Self::Logical { or: false, rules, invert } => {
                rules.iter().all(|rule| rule.matches(cx)) != *invert
            }
        }
    }

    /// Whether it looks at the process behind a connection.
    pub(crate) fn needs_process(&self) -> bool {
        match self {
            Self::Default(rule) => rule.items.iter().any(|item| {
                matches!(
                    item,
                    Item::ProcessName(_)
                        | Item::ProcessPath(_)
                        | Item::ProcessPathRegex(_)
                        | Item::User(_)
                        | Item::UserId(_)
                )
            }),
            Self::Logical { rules, .. } => rules.iter().any(Self::needs_process),
        }
    }
}
