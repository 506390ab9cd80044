//! What rules are compared with.

use std::{borrow::Cow, net::IpAddr};

use crosspoint_kernel::{
    addr::Host,
    session::{Process, Session},
};

use crate::names::lowered;

/// The DNS query types that tell an IP version (RFC 1035 §3.2.2, RFC 3596 §2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// What is known of a connection or a DNS query while rules look at it. Borrowed and cheap to make; made anew whenever
/// an action has changed the session.
///
/// A fact that is not known is never equal to anything but the empty text or the port 0, as in the reference.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    session: Option<&'a Session>,
    ipv6: Option<bool>,
    query_type: u16,
    /// In lower case.
    domain: Option<Cow<'a, str>>,
    destination: Option<IpAddr>,
    port: u16,
    addresses: &'a [IpAddr],
    outbound: &'a str,
}

impl<'a> Facts<'a> {
    /// A connection. `ipv6` is whether its destination was IPv6 when routing began, `None` for a name.
    pub fn connection(session: &'a Session, ipv6: Option<bool>) -> Self {
        let sniffed = session.domain.as_deref().filter(|domain| !domain.is_empty());
        let domain = sniffed.or_else(|| session.target.host.name());
        let destination = match &session.target.host {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        };
        Self {
            session: Some(session),
            ipv6,
            domain: domain.and_then(lower),
            destination,
            port: session.target.port,
            addresses: &session.resolved,
            ..Self::default()
        }
    }

    /// A DNS query for `name` (with or without final dot), of a client whose `session` it came with, or of this
    /// program itself. `query_type` is 0 where addresses of both families are looked up at once.
    ///
    /// The destination of the session does not count: port and address are unknown, as in the reference.
    pub fn query(session: Option<&'a Session>, name: &'a str, query_type: u16) -> Self {
        let ipv6 = match query_type {
            A => Some(false),
            AAAA => Some(true),
            _ => session.and_then(|session| session.target.host.ip()).map(|ip| ip.is_ipv6()),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        Self { session, ipv6, query_type, domain: lower(name), ..Self::default() }
    }

    /// A destination alone: an address, or anything else as a name.
    pub fn destination(text: &'a str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(ip) => Self { destination: Some(ip.to_canonical()), ..Self::default() },
            Err(_) => Self { domain: lower(text), ..Self::default() },
        }
    }

    /// With the addresses in the answer to a DNS query.
    #[must_use]
    pub fn with_answer(self, addresses: &'a [IpAddr]) -> Self {
        Self { addresses, ..self }
    }

    /// With the tag of the outbound for whose server a name is looked up (the old DNS rule item `outbound`).
    #[must_use]
    pub fn with_outbound(self, tag: &'a str) -> Self {
        Self { outbound: tag, ..self }
    }

    /// The sniffed domain, else the name in the destination, or the name in the query; in lower case.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The destination's address, or those that its name was resolved to, or those in the answer.
    pub fn destinations(&self) -> &[IpAddr] {
        match &self.destination {
            Some(ip) => std::slice::from_ref(ip),
            None => self.addresses,
        }
    }

    /// The destination's port; 0 for a query.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The type of a DNS query; 0 for none.
    pub fn query_type(&self) -> u16 {
        self.query_type
    }

    pub(crate) fn session(&self) -> Option<&'a Session> {
        self.session
    }

    pub(crate) fn answer(&self) -> &[IpAddr] {
        self.addresses
    }

    pub(crate) fn outbound(&self) -> &str {
        self.outbound
    }

    pub(crate) fn is_version(&self, ipv6: bool) -> bool {
        self.ipv6 == Some(ipv6) || self.destination.is_some_and(|ip| ip.is_ipv6() == ipv6)
    }

    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.session.map(|session| session.source.ip())
    }

    pub(crate) fn source_port(&self) -> u16 {
        self.session.map_or(0, |session| session.source.port())
    }

    pub(crate) fn inbound(&self) -> &str {
        self.session.map_or("", |session| &session.inbound.tag)
    }

    pub(crate) fn user(&self) -> &str {
        self.session.and_then(|session| session.user.as_deref()).unwrap_or_default()
    }

    pub(crate) fn protocol(&self) -> &str {
        self.session.and_then(|session| session.protocol).unwrap_or_default()
    }

    pub(crate) fn client(&self) -> &str {
        self.session.and_then(|session| session.client.as_deref()).unwrap_or_default()
    }

    pub(crate) fn process(&self) -> Option<&'a Process> {
        self.session.and_then(|session| session.process.as_deref())
    }

    /// The path of the program behind a connection.
    pub(crate) fn path(&self) -> Option<&'a str> {
        self.process().and_then(|process| process.path.as_deref()).filter(|path| !path.is_empty())
    }
}

fn lower(name: &str) -> Option<Cow<'_, str>> {
    (!name.is_empty()).then(|| lowered(name).map_or(Cow::Borrowed(name), Cow::Owned))
}
