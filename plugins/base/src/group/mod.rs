//! What `selector` and `urltest` have in common: members, delays, interruption.

mod history;
mod interrupt;
mod members;

pub use history::{Delay, History, history};
pub(crate) use interrupt::{Interrupt, ending_packets, ending_stream};
pub(crate) use members::{Members, leaf, supports};
