//! Rules, sniffers and the route table of Crosspoint.
//!
//! [`Rules::compile`] turns the `route` section into rules that can be matched; [`Rules::bind`] makes the route table
//! of a generation, which the kernel asks for every connection in that connection's own task. Nothing here is an actor:
//! rules change by a new snapshot.
//!
//! | module | what it is |
//! |---|---|
//! | `compile` | from options to rules, with the reference's errors |
//! | `rule`, [`item`] | matching: groups, logical rules, sets of names, addresses and ports |
//! | `index` | which of thousands of rules need to be looked at |
//! | `action`, `reject` | what a match does |
//! | `table` | the run of one connection through the rules |
//! | [`sniff`], `peek` | protocols by their first bytes, and who reads and gives back those bytes |
//! | [`process`] | the program behind a connection |
//! | `nat` | datagrams whose destination a rule has changed |

mod action;
mod compile;
mod device;
mod index;
pub mod item;
mod names;
mod nat;
mod peek;
pub mod process;
mod reject;
mod rule;
pub mod sniff;
mod table;
#[cfg(test)]
mod tests;

pub use names::is_domain_name;
pub use peek::DNS_ENDS_SNIFFING;
pub use table::Rules;
