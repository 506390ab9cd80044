//! SOCKS4, SOCKS4a and SOCKS5: inbound and outbound `socks`.

#[cfg(feature = "socks")]
mod client;
mod options;
pub(crate) mod packets;
#[cfg(feature = "socks")]
mod server;
pub mod wire;

pub use options::{SocksInOptions, SocksOutOptions};
