//! TCP: one smoltcp interface with one socket for each flow, found by its ends.

mod core;
mod cut;
mod merge;
mod reset;
mod spare;
mod stream;
mod table;
mod timers;

pub use stream::TcpStream;
pub(crate) use table::Table;

use std::net::SocketAddr;

use smoltcp::wire::{IpAddress, IpEndpoint};

/// The ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The end at this side of the tunnel.
    pub(crate) local: SocketAddr,
    /// The end behind the tunnel.
    pub(crate) remote: SocketAddr,
}

/// What of a TCP header decides before a flow is known (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) src: u16,
    pub(crate) dst: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// Payload bytes behind the header.
    pub(crate) len: usize,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

impl Head {
    /// Reads a header; `None` if it is cut off.
    pub(crate) fn parse(segment: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = segment.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let long = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = segment.len().checked_sub(usize::from(header[12] >> 4) * 4)?;
        (word(0) != 0 && word(2) != 0).then_some(())?;
        Some(Self {
            src: word(0),
            dst: word(2),
            seq: long(4),
            ack: long(8),
            flags: header[13],
            len,
        })
    }

    /// Whether it asks for a new connection.
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

fn endpoint(addr: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(IpAddress::from(addr.ip()), addr.port())
}
