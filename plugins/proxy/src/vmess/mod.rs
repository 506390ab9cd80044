//! VMess: inbound and outbound `vmess`, sealed requests (AEAD) and those of the legacy protocol (alternative ids).
//!
//! Sources: <https://www.v2fly.org/developer/protocols/vmess.html>, v2fly `proxy/vmess`, sing-vmess 0.2.

mod accept;
pub mod body;
mod client;
pub mod crypto;
pub mod header;
pub mod keys;
mod link;
mod options;
mod packets;
mod replay;
mod server;
mod stream;
pub mod users;

pub use options::{VmessInOptions, VmessOutOptions, VmessUser};
