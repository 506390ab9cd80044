//! SOCKS4, SOCKS4a and SOCKS5 as bytes: parsers and emitters without IO.
//!
//! Sources: the SOCKS4 and SOCKS4a memoranda, RFC 1928 (SOCKS5), RFC 1929 (user name and password).

mod addr;
mod client;
mod reply;
mod server;
mod udp;

pub use addr::{MAX_ADDR, addr_len, emit_addr, parse_addr};
pub use client::{Bound, ClientError, ClientHandshake, ClientStep, Version};
pub use reply::{Code, emit_reply4, emit_reply5, reply};
pub use server::{Command, Handshake, MAX_HANDSHAKE, Request, ServerError, Step};
pub use udp::{MAX_UDP_HEADER, UdpError, emit_udp_header, parse_udp_header, udp_header_len};

/// First octet of every SOCKS4 request.
pub const VERSION4: u8 = 4;
/// First octet of every SOCKS5 message but the RFC 1929 ones.
pub const VERSION5: u8 = 5;
/// Version octet of the RFC 1929 sub-negotiation.
const AUTH_VERSION: u8 = 1;
/// RFC 1928 §3: no authentication required.
const METHOD_NONE: u8 = 0;
/// RFC 1928 §3: user name and password.
const METHOD_PASSWORD: u8 = 2;
/// RFC 1928 §3: none of the offered methods is acceptable.
const METHOD_REFUSED: u8 = 0xff;
const CMD_CONNECT: u8 = 1;
const CMD_ASSOCIATE: u8 = 3;

#[cfg(test)]
pub(crate) use addr::tests::any_target;
#[cfg(test)]
mod tests;
