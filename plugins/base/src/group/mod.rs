//! What `selector` and `urltest` have in common: members, choices that outlive instances, delays, interruption.

mod choice;
mod history;
mod interrupt;
mod members;

pub use choice::{ChoiceCache, choices, set_choice_cache};
pub use history::{Delay, History, history};
pub(crate) use interrupt::{Interrupt, ending_packets, ending_stream};
pub(crate) use members::{Members, leaf, supports};
