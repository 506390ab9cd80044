//! DNS filters of AdGuard: [`Filter`] reads one; its patterns become a trie, which
//! [`AdGuardSet`](crate::item::AdGuardSet) matches.
//!
//! A pattern is a name with `*` for any text, behind `||` for the name and its sub-domains, behind `|` for names that
//! begin so, and before `^` for names that end so; without them anything may stand before and behind it.

mod convert;
mod patterns;

pub use convert::{Filter, Skipped};
