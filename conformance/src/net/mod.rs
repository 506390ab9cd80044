//! Traffic over loopback: origins to talk to, clients to talk through, suites of what to say.

mod dialer;
pub mod http;
pub mod origin;
pub mod pattern;
mod socks;
mod socks_udp;
pub mod suite;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

pub use dialer::{Datagrams, Via};
pub use socks::{Socks, SocksError, Version};
pub use socks_udp::Association;

/// Where a client asks a proxy to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Addr(SocketAddr),
    /// A name that the proxy resolves, and a port.
    Name(String, u16),
}

impl Target {
    /// The name `localhost` with the port of `addr`.
    pub fn localhost(addr: SocketAddr) -> Self {
        Target::Name("localhost".to_owned(), addr.port())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Target::Addr(addr) => addr.port(),
            Target::Name(_, port) => *port,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Target::Addr(addr)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Addr(addr) => addr.fmt(f),
            Target::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Login {
    /// A pair.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

/// Puts a deadline on one step of a test and names it when it passes.
///
/// # Errors
/// What the future returns, or that it took longer than `limit`.
pub async fn within<T, E: Into<anyhow::Error>>(
    what: &str,
    limit: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    match tokio::time::timeout(limit, step).await {
        Ok(result) => result.map_err(|e| e.into().context(what.to_owned())),
        Err(_) => bail!("{what}: nothing after {limit:?}"),
    }
}
