//! Name resolution as dialers, rules and DNS servers see it.

use std::net::IpAddr;

use crate::{BoxFuture, Tag};

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

/// A lookup that failed.
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
    /// The server did not answer, or answered with an error.
    #[error("lookup {name}: {message}")]
    Failed {
        /// The name asked for.
        name: Box<str>,
        /// What went wrong.
        message: Box<str>,
    },
}

/// One lookup.
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
}

impl<'a> Lookup<'a> {
    /// A lookup with every default.
    pub fn new(name: &'a str) -> Self {
        Self { name, server: None, strategy: None, disable_cache: false }
    }
}

/// The resolver as everybody uses it: rules, cache and servers behind one call.
pub trait Resolve: Send + Sync + 'static {
    /// Addresses of a name, ordered by strategy, never empty on success.
    fn lookup<'a>(&'a self, lookup: Lookup<'a>)
    -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;
}

/// One DNS server as the resolver uses it.
pub trait DnsServer: Send + Sync + 'static {
    /// Addresses of one family; an empty list when the name exists without them.
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        family: Family,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;
}
