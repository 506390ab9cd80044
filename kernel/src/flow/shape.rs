//! Shaping of the first bytes that leave, as rules want it.

use super::BoxStream;
use crate::{
    error::DialError,
    session::{DialPolicy, Network, Session},
};

/// Splits TLS handshakes on their way out. Registered by the crate that knows TLS.
pub struct Shaper {
    /// Wraps the stream to the server; transparent when the handshake's first message is out.
    pub wrap: fn(BoxStream, &DialPolicy) -> BoxStream,
}

inventory::collect!(Shaper);

/// Shapes a stream to the server as the rules that the session has passed want it.
///
/// # Errors
/// They want what nothing in this build can do.
pub fn shape(stream: BoxStream, session: &Session) -> Result<BoxStream, DialError> {
    let policy = &session.dial;
    let wanted = policy.tls_fragment || policy.tls_record_fragment;
    if !wanted || session.network != Network::Tcp {
        return Ok(stream);
    }
    match inventory::iter::<Shaper>.into_iter().next() {
        Some(shaper) => Ok((shaper.wrap)(stream, policy)),
        None => Err(DialError::unsupported("splitting TLS handshakes is not in this build")),
    }
}
