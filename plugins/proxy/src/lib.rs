//! Proxy protocols that carry a destination and bytes over one stream or datagram, one folder per protocol.
//!
//! | module | what it is |
//! |---|---|
//! | `shadowsocks` | Shadowsocks: AEAD (SIP004) and 2022 (SIP022), streams and datagrams |
//! | `trojan` | Trojan, with fallback |
//! | `vless` | VLESS, with XTLS Vision |
//! | `vmess` | VMess: sealed requests and those of the legacy protocol |
//! | [`uuid`] | user ids |
//! | [`address`] | destinations as SOCKS5 writes them, which most protocols share |
//! | `lead` | a stream with a head in front |
//!
//! Buffers of streams, and datagrams in streams, are those of `crosspoint_layers`.

pub use crosspoint_layers::address;
mod lead;
#[cfg(feature = "shadowsocks")]
pub mod shadowsocks;
#[cfg(feature = "trojan")]
pub mod trojan;
pub mod uuid;
#[cfg(feature = "vless")]
pub mod vless;
#[cfg(feature = "vmess")]
pub mod vmess;

pub(crate) use crosspoint_layers::{framed, input};
