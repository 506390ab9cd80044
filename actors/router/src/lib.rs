//! Rules, sniffers and the route table of Crosspoint.
//!
//! [`Rules::compile`] turns the `route` section into rules that can be matched (by `crosspoint-rules`); [`Rules::bind`] makes the route table
//! of a generation, which the kernel asks for every connection in that connection's own task. Nothing here is an actor:
//! rules change by a new snapshot.
//!
//! | module | what it is |
//! |---|---|
//! | `compile` | from options to rules, with the reference's errors |
//! | `action`, `reject` | what a match does |
//! | `table` | the run of one connection through the rules |
//! | [`sniff`], `peek` | protocols by their first bytes, and who reads and gives back those bytes |
//! | [`process`] | the program behind a connection |
//! | `nat` | datagrams whose destination a rule has changed |

mod action;
mod compile;
mod nat;
mod peek;
pub mod process;
mod reject;
pub mod sniff;
mod table;
#[cfg(test)]
mod tests;

pub use peek::DNS_ENDS_SNIFFING;
pub use table::Rules;
