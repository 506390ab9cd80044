//! HTTP/1.1 proxying: inbound and outbound `http`.

#[cfg(feature = "http")]
mod client;
pub(crate) mod exchange;
mod options;
#[cfg(feature = "http")]
mod server;
pub mod wire;

pub use options::{HttpMixedInOptions, HttpOutOptions};
