//! Name resolution: DNS rules choose the server for a query of a client or of this program itself, answers are kept, and
//! addresses are ordered by strategy.
//!
//! [`Plan::compile`] checks the `dns` section, [`Plan::bind`] makes the resolver of a generation, and a [`Keeper`] carries
//! answers that still hold over a reload. Like routing, a query runs in the task of whoever asks; nothing here is an actor.
//!
//! ```text
//! query → shared cache → rules → server → its cache → equal query under way → exchange → accepted? → kept, told
//!            │ hit                              │ hit                                 └ no: next rule
//!            └ the wire answer, patched: id, case of the name, RD, CD, TTLs, OPT
//! ```
//! With `independent_cache` there is no shared cache, and the second one is per server. What a query depends on is its
//! key: name, type, class, DO, CD, client subnet. Answers lose their OPT record when they are kept and get one back for
//! clients that have sent one.

mod cache;
mod flight;
mod keeper;
mod log;
mod lookup;
mod mapping;
pub mod message;
mod plan;
mod predefined;
mod resolver;
mod rule;
pub mod serve;
mod server;
#[cfg(test)]
mod tests;
pub mod wire;

pub use keeper::Keeper;
pub use plan::Plan;
