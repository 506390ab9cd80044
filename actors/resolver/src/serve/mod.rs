//! Answers DNS queries of clients: of streams and datagrams that a rule hands over (`hijack-dns`), and of inbounds and
//! outbounds that speak DNS themselves.
//!
//! One task serves a connection. A query whose answer is at hand costs no allocation and no task; the others wait side
//! by side in that same task. Each query goes to the resolver in force when it comes, so that a reload holds at once.
//!
//! What is no query is passed over on datagrams and ends a stream, as in the reference. A query that fails is answered
//! with SERVFAIL, where the reference says nothing and the client waits for its own time-out.

mod desk;
mod packets;
mod stream;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{io, time::Duration};

use crosspoint_kernel::{flow::Flow, session::Session, snapshot::Plane};

pub use desk::{Desk, Reply};
pub use packets::packets;
pub use stream::stream;

/// How long a client may say nothing, as in the reference (constant/timeout.go: DNSTimeout).
pub const IDLE: Duration = Duration::from_secs(10);

/// How long one query may take with everything that rules make of it; servers have limits of their own.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Answers the queries of a connection until it ends.
///
/// # Errors
/// The connection broke, or the client sent what is no query.
pub async fn flow(session: &Session, flow: Flow, plane: &Plane) -> io::Result<()> {
    match flow {
        Flow::Stream(client) => stream(client, session, plane).await,
        Flow::Packet(client) => packets(client, session, plane).await,
    }
}
