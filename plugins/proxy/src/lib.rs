//! Proxy protocols that carry a destination and bytes over one stream or datagram, one folder per protocol.
//!
//! | module | what it is |
//! |---|---|
//! | `shadowsocks` | Shadowsocks: AEAD (SIP004) and 2022 (SIP022), streams and datagrams |
//! | `trojan` | Trojan, with fallback |
//! | [`address`] | destinations as SOCKS5 writes them, which most protocols share |
//! | `lead`, `framed` | a stream with a head in front; datagrams in a stream |
//! | `input`, `pool` | buffers of streams; those of the thread, so that an idle connection holds none |

pub mod address;
mod framed;
mod input;
mod lead;
mod pool;
#[cfg(feature = "shadowsocks")]
pub mod shadowsocks;
#[cfg(feature = "trojan")]
pub mod trojan;
