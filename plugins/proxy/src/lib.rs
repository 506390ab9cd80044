//! Proxy protocols that carry a destination and bytes over one stream or datagram, one folder per protocol.
//!
//! | module | what it is |
//! |---|---|
//! | `shadowsocks` | Shadowsocks: AEAD (SIP004) and 2022 (SIP022), streams and datagrams |
//! | [`address`] | destinations as SOCKS5 writes them, which most protocols share |
//! | `pool` | buffers of the thread, so that an idle connection holds none |

pub mod address;
mod pool;
#[cfg(feature = "shadowsocks")]
pub mod shadowsocks;
mod spec;
