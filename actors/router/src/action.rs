//! Rule actions as they are taken.

use std::{fmt, time::Duration};

use crosspoint_kernel::{Tag, addr::Host, component::Dep, resolve::Strategy, session::Session};
use crosspoint_schema::decode::Prefix;

use crate::{reject::Rejecter, sniff::Sniffer};

/// What a matching rule does.
#[derive(Debug)]
pub(crate) enum Action {
    /// Final: dial through an outbound.
    Route { outbound: Tag, options: Options },
    /// Go on with other options.
    Options(Options),
    /// Nothing, as in the reference; not final.
    Direct,
    /// Final: refuse.
    Reject(Rejecter),
    /// Look at the first bytes and go on.
    Sniff(Sniff),
    /// Look the name up and go on.
    Resolve(Resolve),
    /// Final: answer the DNS queries in it.
    HijackDns,
}

/// Options of `route` and `route-options`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) address: Option<Host>,
    pub(crate) port: Option<u16>,
    pub(crate) fallback_delay: Option<Duration>,
    pub(crate) disable_domain_unmapping: bool,
    pub(crate) udp_connect: bool,
    pub(crate) udp_timeout: Option<Duration>,
    /// Split TLS handshakes into segments, waiting so long between two of them.
    pub(crate) tls_fragment: Option<Option<Duration>>,
    pub(crate) tls_record_fragment: bool,
}

impl Options {
    /// Whether the destination changes.
    pub(crate) fn overrides(&self) -> bool {
        self.address.is_some() || self.port.is_some()
    }

    /// Writes what is set into the session.
    pub(crate) fn apply(&self, session: &mut Session) {
        if let Some(host) = &self.address {
            session.target.host = host.clone();
            session.resolved.clear();
        }
        if let Some(port) = self.port {
            session.target.port = port;
        }
        if let Some(delay) = self.fallback_delay {
            session.dial.fallback_delay = Some(delay);
        }
        if let Some(timeout) = self.udp_timeout {
            session.udp.timeout = Some(timeout);
        }
        session.udp.disable_domain_unmapping |= self.disable_domain_unmapping;
        session.udp.connect |= self.udp_connect;
        if let Some(delay) = self.tls_fragment {
            session.dial.tls_fragment = true;
            session.dial.tls_fragment_fallback_delay = delay;
        }
        session.dial.tls_record_fragment |= self.tls_record_fragment;
    }
}

/// The action `sniff`.
#[derive(Debug)]
pub(crate) struct Sniff {
    /// Empty: all that fit the flow.
    pub(crate) sniffers: Box<[Sniffer]>,
    /// How long to wait for the client.
    pub(crate) timeout: Option<Duration>,
}

/// The action `resolve`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolve {
    pub(crate) server: Option<Tag>,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) disable_cache: bool,
    pub(crate) rewrite_ttl: Option<u32>,
    pub(crate) client_subnet: Option<Prefix>,
}

impl Action {
    /// The tags that the action refers to, each with the key of the rule that names it.
    pub(crate) fn references(&self) -> impl Iterator<Item = (Dep, &'static str)> {
        match self {
            // A rule without outbound is accepted by the reference and fails per connection.
            Self::Route { outbound, .. } if !outbound.is_empty() => {
                Some((Dep::Outbound(outbound.clone()), "outbound"))
            }
            Self::Resolve(Resolve { server: Some(server), .. }) => {
                Some((Dep::DnsServer(server.clone()), "server"))
            }
            _ => None,
        }
        .into_iter()
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = &self.address {
            write!(f, ",override-address={address}")?;
        }
        if let Some(port) = self.port {
            write!(f, ",override-port={port}")?;
        }
        if let Some(delay) = self.fallback_delay {
            write!(f, ",fallback-delay={delay:?}")?;
        }
        for (name, set) in [
            (",udp-disable-domain-unmapping", self.disable_domain_unmapping),
            (",udp-connect", self.udp_connect),
            (",udp-timeout", self.udp_timeout.is_some()),
            (",tls-fragment", self.tls_fragment.is_some()),
        ] {
            if set {
                f.write_str(name)?;
            }
        }
        if let Some(Some(delay)) = self.tls_fragment {
            write!(f, ",tls-fragment-fallback-delay={delay:?}")?;
        }
        if self.tls_record_fragment {
            f.write_str(",tls-record-fragment")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { outbound, options } => write!(f, "route({outbound}{options})"),
            Self::Options(options) => {
                write!(f, "route-options({})", options.to_string().trim_start_matches(','))
            }
            Self::Direct => f.write_str("direct"),
            Self::Reject(rejecter) => rejecter.fmt(f),
            Self::Sniff(sniff) => {
                let mut parts: Vec<String> =
                    sniff.sniffers.iter().map(ToString::to_string).collect();
                parts.extend(sniff.timeout.map(|timeout| format!("{timeout:?}")));
                list(f, "sniff", &parts)
            }
            Self::Resolve(resolve) => {
                let mut parts: Vec<String> =
                    resolve.server.iter().map(ToString::to_string).collect();
                parts.extend(resolve.strategy.map(|strategy| format!("{strategy:?}")));
                parts.extend(resolve.disable_cache.then(|| "disable_cache".to_owned()));
                parts.extend(resolve.rewrite_ttl.map(|ttl| format!("rewrite_ttl={ttl}")));
                parts.extend(resolve.client_subnet.map(|subnet| format!("client_subnet={subnet}")));
                list(f, "resolve", &parts)
            }
            Self::HijackDns => f.write_str("hijack-dns"),
        }
    }
}

/// `name`, or `name(part,part)`.
fn list(f: &mut fmt::Formatter<'_>, name: &str, parts: &[String]) -> fmt::Result {
    if parts.is_empty() { f.write_str(name) } else { write!(f, "{name}({})", parts.join(",")) }
}
