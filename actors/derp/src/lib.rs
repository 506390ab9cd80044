//! DERP: packets between Tailscale nodes, by public key, where no direct way can be found.
//!
//! | module | what it is |
//! |---|---|
//! | [`frame`], [`stun`] | frames and STUN messages, without I/O |
//! | [`key`], [`naclbox`], [`info`] | keys, `crypto_box`, what both sides say of themselves |
//! | [`handshake`] | both sides of it, on a stream |
//! | [`hub`] | a server: settings, and the task of each client (`connection`) |
//! | `actor` | who comes and goes: the only one that writes the [`table`] |
//! | [`table`], [`mailbox`] | who is where; what is to be sent to whom, in bounds |
//! | [`client`] | a client, as nodes and other servers are |
//! | [`mesh`] | links between the servers of a region |
//! | [`admission`] | the question whether a node belongs to a tailnet, for its endpoint |
//!
//! ```text
//! client A ─ task ─► Table (read) ─► Mailbox of B ─► task ─ client B
//!              └─ joins, leaves, speaks ─► actor ─► Table (write)
//! ```
//! A packet is copied once, into the mailbox of whom it is for; no message carries it. Facts of the protocol: tailscale
//! `derp/`, `net/stun` (BSD-3-Clause).

mod actor;
pub mod admission;
pub mod client;
mod connection;
pub mod frame;
pub mod handshake;
pub mod hub;
pub mod info;
pub mod key;
pub mod limit;
pub mod mailbox;
pub mod mesh;
pub mod naclbox;
mod pump;
pub mod stun;
pub mod table;
#[cfg(test)]
mod tests;

pub use connection::{End, KEEP_ALIVE};
