//! The matching engine of Crosspoint: rules of the router, rules for DNS queries, and rule-sets.
//!
//! Rules are compiled once and are immutable. They are compared with [`Facts`], which are borrowed from a session, from
//! a DNS query, or both. What changes while the program runs, the content of a rule-set, stands behind a
//! [`RuleSetSlot`].
//!
//! | module | what it is |
//! |---|---|
//! | `facts` | what rules are compared with |
//! | `compile` | from options to rules, with the reference's errors |
//! | `rule`, [`item`] | matching: groups, logical rules, sets of names, addresses and ports |
//! | `dns` | rules that are looked at before and after a server has answered |
//! | `headless`, `sets`, `slot` | rule-sets: their rules, the item that refers to them, where they are found |
//! | [`mod@format`] | rule-set files |
//! | [`live`] | where the rules of sets come from, and when they change |
//! | `index` | which of thousands of rules need to be looked at |

mod compile;
mod device;
mod dns;
mod facts;
pub mod format;
mod headless;
mod index;
pub mod item;
pub mod live;
mod names;
mod rule;
mod sets;
mod slot;
#[cfg(test)]
mod tests;

pub use compile::Refusal;
pub use dns::DnsMatcher;
pub use facts::Facts;
pub use headless::{Compiled, RuleError};
pub use index::Index;
pub use names::{is_domain_name, lowered};
pub use rule::Rule;
pub use slot::{Compat, HEADLESS_QUERY_TYPE, RULE_SET_FLAG_LEAK, RuleSetSlot, RuleSets};
