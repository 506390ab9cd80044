//! Name resolution as dialers, rules and DNS servers see it.

use std::{any::Any, io, net::IpAddr, sync::Arc};

use crosspoint_schema::decode::Prefix;

use crate::{BoxFuture, Tag, error::DialError, flow::Flow, session::Session, snapshot::Plane};

/// Which address families are wanted, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Both, as they come (the default; IPv4 first as the reference orders them).
    #[default]
    AsIs,
    /// Both, IPv4 first.
    PreferIpv4,
    /// Both, IPv6 first.
    PreferIpv6,
    /// IPv4 only.
    Ipv4Only,
    /// IPv6 only.
    Ipv6Only,
}

/// One address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// A lookup or an exchange that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist or has no address of the wanted family.
    #[error("lookup {name}: no such host")]
    NotFound {
        /// The name asked for.
        name: Box<str>,
    },
    /// No server of that tag.
    #[error("DNS server not found: {0}")]
    NoServer(Tag),
    /// A server is needed to reach itself.
    #[error("DNS query loop: {0}")]
    Loop(Box<str>),
    /// A rule refuses the query.
    #[error("lookup {name}: rejected by DNS rule")]
    Rejected {
        /// The name asked for.
        name: Box<str>,
    },
    /// A rule says that the query is not to be answered at all.
    #[error("dropped by DNS rule")]
    Dropped,
    /// The server did not answer, or answered with an error.
    #[error("lookup {name}: {message}")]
    Failed {
        /// The name asked for.
        name: Box<str>,
        /// What went wrong.
        message: Box<str>,
    },
}

/// The DNS servers that are being asked on the way to here, to find loops: a server whose own name only it
/// can resolve, or that is reached through an outbound that asks it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trail(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    server: Tag,
    before: Trail,
}

/// The trail of whoever starts to ask.
pub static NO_TRAIL: Trail = Trail(None);

impl Trail {
    /// The trail on which `server` is asked.
    ///
    /// # Errors
    /// [`ResolveError::Loop`], with the servers named in order, when it is being asked already.
    pub fn enter(&self, server: &Tag) -> Result<Self, ResolveError> {
        if self.steps().any(|tag| tag == server) {
            let mut tags: Vec<&str> = self.steps().map(|tag| &**tag).collect();
            tags.reverse();
            tags.push(server);
            return Err(ResolveError::Loop(tags.join(" -> ").into()));
        }
        Ok(Self(Some(Arc::new(Step { server: server.clone(), before: self.clone() }))))
    }

    /// Whether nobody is being asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The servers, the last one first.
    fn steps(&self) -> impl Iterator<Item = &Tag> {
        let mut at = self;
        std::iter::from_fn(move || {
            let step = at.0.as_deref()?;
            at = &step.before;
            Some(&step.server)
        })
    }
}

/// One lookup of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The domain name.
    pub name: &'a str,
    /// Ask this server instead of the one that DNS rules choose.
    pub server: Option<&'a str>,
    /// Families and their order; `None` takes the server's or the global default.
    pub strategy: Option<Strategy>,
    /// Neither read nor fill the cache.
    pub disable_cache: bool,
    /// Keep the answer for this many seconds.
    pub rewrite_ttl: Option<u32>,
    /// Send this client subnet.
    pub client_subnet: Option<Prefix>,
    /// The connection that asks, for DNS rules.
    pub session: Option<&'a Session>,
    /// The outbound that dials, for DNS rules that still ask for it.
    pub outbound: Option<&'a str>,
    /// Servers that are being asked on the way to this lookup.
    pub trail: &'a Trail,
}

impl<'a> Lookup<'a> {
    /// A lookup with every default.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            server: None,
            strategy: None,
            disable_cache: false,
            rewrite_ttl: None,
            client_subnet: None,
            session: None,
            outbound: None,
            trail: &NO_TRAIL,
        }
    }
}

/// One DNS message of a client (hijacked, of a DNS inbound or of a service) for the resolver to answer.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The query as on the wire (RFC 1035 §4, without the length prefix of TCP).
    pub message: &'a [u8],
    /// The connection it came in; `None` for those of our own.
    pub session: Option<&'a Session>,
    /// Ask this server instead of the one that DNS rules choose.
    pub server: Option<&'a str>,
    /// Servers that are being asked on the way to this query.
    pub trail: &'a Trail,
}

impl<'a> Ask<'a> {
    /// A query with every default.
    pub fn new(message: &'a [u8]) -> Self {
        Self { message, session: None, server: None, trail: &NO_TRAIL }
    }
}

/// The resolver as everybody uses it: rules, cache and servers behind one face.
pub trait Resolve: Send + Sync + 'static {
    /// Addresses of a name, ordered by strategy, never empty on success.
    fn lookup<'a>(&'a self, lookup: Lookup<'a>)
    -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;

    /// The answer to a message, with the id of the query. A server that answers with an error code has
    /// answered. The caller truncates for its transport.
    ///
    /// # Errors
    /// No answer could be had; [`ResolveError::Dropped`] when the client is to get none.
    fn exchange<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Vec<u8>, ResolveError>> {
        let _ = ask;
        let failed = ResolveError::Failed { name: "".into(), message: "no resolver".into() };
        Box::pin(std::future::ready(Err(failed)))
    }

    /// As [`Resolve::exchange`], if the answer is at hand and nothing about the connection can change it: appends
    /// it to `out` and returns true. Never waits; the busy path of everything that answers DNS.
    fn exchange_now(&self, ask: Ask<'_>, out: &mut Vec<u8>) -> bool {
        let _ = (ask, out);
        false
    }

    /// Answers the DNS queries of a connection until it ends (rule action `hijack-dns`). Each query goes to the
    /// resolver that `plane` has at that moment, so that a reload holds for connections that are open.
    fn serve<'a>(
        &'a self,
        session: &'a Session,
        flow: Flow,
        plane: &'a Plane,
    ) -> BoxFuture<'a, io::Result<()>> {
        let _ = (session, flow, plane);
        Box::pin(std::future::ready(Err(io::Error::other("no resolver"))))
    }

    /// The name that a fake address stands for. `Some(None)`: the address is of a fake range, and stands for
    /// nothing (any more).
    fn fake_name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        let _ = ip;
        None
    }

    /// The name that a client was last told this address for (`dns.reverse_mapping`).
    fn mapped_name(&self, ip: IpAddr) -> Option<Box<str>> {
        let _ = ip;
        None
    }

    /// Forgets every cached answer.
    fn flush(&self) {}
}

/// One query on its way to one DNS server.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The message as on the wire; its id is of the asker's choice.
    pub message: &'a [u8],
    /// The servers that are being asked, this one included: pass it on with every dial and lookup.
    pub trail: &'a Trail,
}

/// Why a DNS server gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Reaching it needs itself.
    #[error("{0}")]
    Loop(ResolveError),
    /// It knows nothing of such names or types, or answered with something that is no answer.
    #[error("{0}")]
    Failed(Box<str>),
}

impl ExchangeError {
    /// A failure with that text.
    pub fn failed(why: impl std::fmt::Display) -> Self {
        Self::Failed(why.to_string().into())
    }
}

/// One DNS server as the resolver uses it.
pub trait DnsServer: Send + Sync + 'static {
    /// Answers a message with a message of the same id. The resolver bounds the time; dropping the future
    /// gives up.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>>;

    /// The network has changed: drop connections that may hang.
    fn reset(&self) {}

    /// The face of a server that makes addresses up.
    fn fake_ip(&self) -> Option<&dyn FakeIp> {
        None
    }
}

/// Made-up addresses that stand for names. `Any`, so that a new instance can take over from the one before.
pub trait FakeIp: Any + Send + Sync {
    /// As [`Resolve::fake_name`].
    fn name(&self, ip: IpAddr) -> Option<Option<Box<str>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_named() {
        let on = NO_TRAIL.enter(&"a".into()).and_then(|trail| trail.enter(&"b".into()));
        let trail = on.expect("no loop");
        assert!(trail.enter(&"c".into()).is_ok());
        let error = trail.enter(&"a".into()).expect_err("a loop");
        assert_eq!(error.to_string(), "DNS query loop: a -> b -> a");
    }
}
