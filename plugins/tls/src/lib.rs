//! TLS at the client and at the server, made from the option blocks of the dialect, on rustls and aws-lc-rs.
//!
//! [`Client`] and [`Server`] are made without touching the network, so that the same call serves `check` and a
//! start. A connection that lives keeps what it was made with: certificates and trusted authorities that change
//! hold for later handshakes.
//!
//! | module | what it is |
//! |---|---|
//! | [`Client`], [`Server`], [`TlsStream`] | handshakes and what comes of them |
//! | [`Store`] | whom clients trust, from the `certificate` section; watched |
//! | [`fragment`] | a ClientHello in several segments or records |
//! | `below` | the stream below, which XTLS Vision comes back to |
//! | `ech` | Encrypted Client Hello at the client |
//! | `mint` | certificates that `insecure` servers make up |
//!
//! Facts of the formats: RFC 8446 (TLS 1.3), RFC 6066 §3 (server names), RFC 9849 (ECH), RFC 9460 (HTTPS records).

mod below;
mod client;
mod der;
mod ech;
mod error;
mod failure;
pub mod fragment;
mod keys;
mod mint;
mod pem;
mod server;
mod store;
mod stream;
mod suites;
mod tickets;
mod verify;
mod watch;

pub use client::{Client, ClientDefaults};
pub use error::TlsError;
pub use failure::HandshakeError;
pub use server::{Server, ServerDefaults};
pub use store::{Plan, Store};
pub use stream::TlsStream;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);
