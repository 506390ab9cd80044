//! Transport `httpupgrade`: an HTTP/1.1 upgrade like that of WebSocket, and then the bytes as they are: a connection
//! without TLS is spliced.
//!
//! The reference is transport/v2rayhttpupgrade. At the server `headers` are sent with the answer, as the reference
//! documents it; its code forgets them.

mod client;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::client;
pub(crate) use server::server;

/// What TLS offers, and takes, where the user configured nothing.
const ALPN: &[&str] = &["http/1.1"];
