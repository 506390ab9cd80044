//! VLESS: inbound and outbound `vless` (<https://xtls.github.io/en/development/protocols/vless.html>).
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`] | requests, responses, datagrams |
//! | [`vision`] | the flow `xtls-rprx-vision` |
//! | `reply` | a stream that begins with a response |

mod client;
mod options;
mod reply;
mod server;
pub mod vision;
pub mod wire;

pub use options::{VlessInOptions, VlessOutOptions};

/// The flow that hides TLS within TLS.
pub const VISION: &str = "xtls-rprx-vision";

/// Said of a stream that Vision cannot leave.
const NO_SEAL: &str = "initialize vision: not a valid supported TLS connection";
