//! Shadowsocks: inbound and outbound `shadowsocks` (SIP002 methods `none` and stream ciphers, SIP004 and SIP022).
//!
//! | module | what it is |
//! |---|---|
//! | [`method`], [`cipher`] | names, keys and ciphers |
//! | [`legacy`] | stream ciphers, for clients of old servers |
//! | [`wire`], `stream` | chunks and headers of streams, without I/O; a stream with them around it |
//! | [`datagram`], `packets` | the same for datagrams |
//! | [`replay`] | salts and numbers that were seen |
//! | `keys`, `accept`, `sessions`, `udp`, `server` | the server: users, requests, datagram sessions |
//! | `relay` | the server that hands on to others |
//! | `client`, [`sip003`] | the client, and plugins in front of it |

mod accept;
pub mod cipher;
mod client;
pub mod datagram;
mod keys;
pub mod legacy;
pub mod method;
mod options;
mod packets;
mod relay;
pub mod replay;
mod server;
mod sessions;
pub mod sip003;
mod stream;
mod udp;
pub mod wire;

pub use options::{ShadowsocksInOptions, ShadowsocksOutOptions};
