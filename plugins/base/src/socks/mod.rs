//! SOCKS4, SOCKS4a and SOCKS5.

pub mod wire;
