//! Trojan: inbound and outbound `trojan` (<https://trojan-gfw.github.io/trojan/protocol>).

mod client;
mod mux;
mod options;
mod server;
pub mod wire;

pub use options::{TrojanInOptions, TrojanOutOptions};
