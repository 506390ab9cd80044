//! mux.cool: connections, streams and associations, in one stream. The server's end; of the client's end there is
//! [`xudp`](super::xudp), as in the reference.
//!
//! The format has no windows: when one connection does not take its bytes, those of the others that come behind them
//! wait as well. What waits is bounded, in both directions.

mod branch;
pub mod frame;
mod session;

use std::io;

use crosspoint_kernel::{addr::Target, flow::BoxStream};

use crate::branches::Branches;

/// The destination that asks for it in a protocol that has no command for it.
pub const NAME: &str = "v1.mux.cool";

/// That destination, which logs and the ledger show for a session.
#[must_use]
pub fn target() -> Target {
    Target::new(NAME, 666)
}

/// Serves a stream with sessions inside until it ends; each goes out through `branches`.
///
/// # Errors
/// The stream failed, or the client does not speak the protocol.
pub async fn serve(stream: BoxStream, branches: Branches) -> io::Result<()> {
    session::Session::new(stream, branches).run().await
}
