//! sing-mux: many streams in one connection of another protocol, over smux, yamux or HTTP/2, with padding and Brutal, as the
//! reference has it (`multiplex`).
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`], [`frame`] | sing-mux's own words; frames of smux and yamux; both without I/O |
//! | `carrier` | the connection under a session: request, padding, gathered writes |
//! | `session`, `driver`, `pipe` | a session of smux or yamux: what its streams share, its task, what was received |
//! | `h2` | a session over HTTP/2 |
//! | `talk` | streams with a request and an answer at their start |
//! | `client` | the outbound: sessions, and which of them a stream goes into |
//! | `server` | what an inbound does with a session |
//! | [`bare`] | a session of smux alone |
//! | `brutal` | TCP Brutal |

pub mod bare;
mod brutal;
mod carrier;
pub(crate) mod client;
mod driver;
pub mod frame;
mod h2;
mod pipe;
pub(crate) mod server;
mod session;
mod talk;
#[cfg(test)]
mod tests;
pub mod wire;
