//! What DNS servers over the network share.
//!
//! A query is forwarded as it is, but for its id; an answer counts if id, question and opcode match. Connections
//! are owned by small tasks that end when they are idle or the server is dropped, so that an instance that has been
//! replaced finishes what it has begun.

#[cfg(feature = "udp")]
mod datagrams;
mod route;
mod server;
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
mod streams;
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
mod waiters;
pub mod wire;

#[cfg(feature = "udp")]
pub(crate) use datagrams::{Answer, Datagrams};
pub(crate) use route::Route;
pub use server::RemoteOptions;
pub(crate) use server::{Transport, parse};
#[cfg(any(feature = "udp", feature = "tcp", feature = "tls"))]
pub(crate) use streams::Streams;
