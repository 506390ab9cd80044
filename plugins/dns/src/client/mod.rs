//! What DNS servers over the network share.
//!
//! A query is forwarded as it is, but for its id; an answer counts if id, question and opcode match. Connections
//! are owned by small tasks that end when they are idle or the server is dropped, so that an instance that has been
//! replaced finishes what it has begun.

#[cfg(feature = "udp")]
mod datagrams;
#[cfg(any(feature = "https", feature = "h3"))]
mod http;
#[cfg(any(feature = "h3", feature = "quic"))]
mod quic;
#[cfg(feature = "net")]
mod route;
#[cfg(any(feature = "tls", feature = "https", feature = "h3", feature = "quic"))]
mod secure;
#[cfg(feature = "net")]
mod server;
#[cfg(any(feature = "https", feature = "h3", feature = "quic"))]
mod sessions;
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
mod streams;
#[cfg(all(
    test,
    feature = "udp",
    feature = "tcp",
    feature = "tls",
    feature = "https",
    feature = "h3",
    feature = "quic"
))]
mod tests;
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
mod waiters;
pub mod wire;

#[cfg(feature = "udp")]
pub(crate) use datagrams::{Answer, Datagrams};
#[cfg(any(feature = "https", feature = "h3"))]
pub use http::RemoteHttpsOptions;
#[cfg(any(feature = "https", feature = "h3"))]
pub(crate) use http::{Template, append, check_status};
#[cfg(any(feature = "h3", feature = "quic"))]
pub(crate) use quic::connect as connect_quic;
#[cfg(feature = "net")]
pub(crate) use route::Route;
#[cfg(any(feature = "tls", feature = "https", feature = "h3", feature = "quic"))]
pub use secure::RemoteTlsOptions;
#[cfg(any(feature = "tls", feature = "https", feature = "h3", feature = "quic"))]
pub(crate) use secure::Secure;
#[cfg(feature = "net")]
pub use server::RemoteOptions;
#[cfg(feature = "net")]
pub(crate) use server::{Transport, parse};
#[cfg(any(feature = "https", feature = "h3", feature = "quic"))]
pub(crate) use sessions::{Failed, OpenSession, Opened, Post, Sessions};
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
pub(crate) use streams::Streams;
