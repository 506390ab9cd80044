//! The per-byte path: one task moves both directions of a connection, and no actor takes part.
//!
//! Raw TCP pairs are spliced through pipes that are taken from a pool only while data moves; other
//! pairs are copied through buffers that belong to the thread and not to the connection. An idle
//! connection therefore holds two sockets, one small future, and nothing else.

mod batch;
mod buffer;
mod heap;
#[cfg(test)]
mod packet_tests;
mod packets;
mod pipe;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub use batch::{give_batch, take_batch};
pub use heap::{give_memory_back, large_blocks_apart};
pub use packets::packets;
pub use stream::streams;

use crate::{ledger::Cut, session::UdpPolicy};

/// Which end of a relay something happened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client that the inbound accepted.
    Client,
    /// The server that the outbound dialled.
    Server,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both directions came to their end.
    Closed,
    /// No datagram in either direction for that long.
    Idle(Duration),
    /// A read from or a write to that end failed.
    Failed(Peer, io::Error),
    /// Ended from outside.
    Cut(Cut),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind as K;
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Idle(after) => write!(f, "idle for {after:?}"),
            Self::Failed(peer, error) => match error.kind() {
                K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
                    write!(f, "{peer} reset")
                }
                K::UnexpectedEof => write!(f, "{peer} closed early"),
                _ => write!(f, "{peer}: {error}"),
            },
            Self::Cut(cut) => f.write_str(cut.as_str()),
        }
    }
}

static SPLICED_BYTES: AtomicU64 = AtomicU64::new(0);
static SPLICE_BURSTS: AtomicU64 = AtomicU64::new(0);

/// What the relay did so far in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Payload bytes that were moved by splice and never copied.
    pub spliced_bytes: u64,
    /// Times that a direction took a pipe.
    pub splice_bursts: u64,
    /// Pipes that exist now, each of them two descriptors.
    pub pipes: usize,
    /// Of these, pipes in the pool.
    pub idle_pipes: usize,
}

/// What the relay did so far, and the pipes that it holds now.
pub fn stats() -> Stats {
    let (pipes, idle_pipes) = pipe::count();
    Stats {
        spliced_bytes: SPLICED_BYTES.load(Ordering::Relaxed),
        splice_bursts: SPLICE_BURSTS.load(Ordering::Relaxed),
        pipes,
        idle_pipes,
    }
}

/// Idle time after which a datagram association ends (parity/semantics.md §5.3): the rule's value,
/// else that of the sniffed protocol, else, if nothing was sniffed, that of the protocol which the
/// destination port stands for, else five minutes.
pub fn udp_timeout(policy: UdpPolicy, protocol: Option<&'static str>, port: u16) -> Duration {
    if let Some(timeout) = policy.timeout.filter(|timeout| !timeout.is_zero()) {
        return timeout;
    }
    let by_port = match port {
        53 => Some("dns"),
        123 => Some("ntp"),
        443 => Some("quic"),
        3478 => Some("stun"),
        _ => None,
    };
    match protocol.filter(|name| !name.is_empty()).or(by_port) {
        Some("dns" | "ntp" | "stun") => Duration::from_secs(10),
        Some("quic" | "dtls") => Duration::from_secs(30),
        _ => Duration::from_secs(5 * 60),
    }
}
