//! The promise: change or lose one part, and every other flow lives on.
//!
//! The subject is `crosspoint-faulty`, the daemon with a component type that fails on order.

mod degraded;
mod heal;
mod hostile;
mod load;
mod random;
mod reload;
pub(crate) mod stage;
