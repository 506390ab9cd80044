//! Name resolution for dialers and rules: chooses the DNS server, asks for both address families side
//! by side, and orders the answer by strategy.
//!
//! [`Plan::compile`] checks the `dns` section, [`Plan::bind`] makes the resolver of a generation. Like routing, a lookup
//! runs in the task of whoever asks; nothing here is an actor. This build has no DNS rules and no cache: options that
//! need them are refused at start. Equal lookups that run at the same time are one.

mod flight;
pub mod message;
mod plan;
mod resolver;
pub mod serve;
#[cfg(test)]
mod tests;

pub use plan::Plan;
