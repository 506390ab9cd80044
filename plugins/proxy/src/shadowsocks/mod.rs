//! Shadowsocks: inbound and outbound `shadowsocks` (SIP002 methods `none`, SIP004 and SIP022).
//!
//! | module | what it is |
//! |---|---|
//! | [`method`], [`cipher`] | names, keys and ciphers |
//! | [`wire`], `stream` | chunks and headers of streams, without I/O; a stream with them around it |
//! | [`datagram`], `packets` | the same for datagrams |
//! | [`replay`] | salts and numbers that were seen |
//! | `keys`, `accept`, `sessions`, `server` | the server: users, requests, datagram sessions |
//! | `client` | the client |

mod accept;
pub mod cipher;
mod client;
pub mod datagram;
mod keys;
pub mod method;
mod options;
mod packets;
pub mod replay;
mod server;
mod sessions;
mod stream;
pub mod wire;

pub use options::{ShadowsocksInOptions, ShadowsocksOutOptions};
