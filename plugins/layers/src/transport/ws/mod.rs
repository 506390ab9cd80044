//! Transport `ws`: WebSocket (RFC 6455), with data in the request where that is configured.
//!
//! The reference is transport/v2raywebsocket; its data in the header `Sec-WebSocket-Protocol` is also what Xray sends
//! (`ed` in its path). At the server `headers` are sent with the answer, as the reference documents it; its code forgets
//! them.

mod buffer;
mod client;
mod early;
pub mod frame;
pub mod mask;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) use client::client;
pub(crate) use server::server;
pub use server::{check, upgraded};

use super::head::AskError;

/// What a server answers to a key (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}
