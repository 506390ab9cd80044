//! UDP sockets as packet batches, with segmentation offload in both directions.
//!
//! * [`UdpPackets`] owns a socket, connected or not: what outbounds dial.
//! * [`ResolvingPackets`] lets packets name their peers by domain.
//! * [`Nat`] splits one listening socket into an association for each client.
//! * [`SharedUdp`] answers datagrams one by one.

mod inbox;
mod nat;
mod offload;
mod resolving;
mod shared;
mod socket;
mod sys;
#[cfg(test)]
mod tests;

pub use nat::{Nat, NewSession, SESSIONS};
pub use offload::{Stats, stats};
pub use resolving::{Resolver, ResolvingPackets};
pub use shared::{Back, SharedUdp};
pub use socket::UdpPackets;
