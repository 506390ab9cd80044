//! The life of rule-sets: where their rules come from, and when they change.
//!
//! ```text
//! Library (of the process) ── plan(config) ──> Draft ── load ──> slots with rules, one component a set ── commit ──> Library
//! ```
//! A set is known by its tag and options. One that a new configuration has with equal options keeps its slot, its rules
//! and its component. Any other gets a new slot, so that nothing of a configuration that is refused in the end is seen.
//!
//! | type | rules come | then |
//! |---|---|---|
//! | inline | with the configuration | never change |
//! | local | before the configuration is in force | the file is looked at once a second |
//! | remote | out of the cache file, else by a download that nobody waits for | downloads, by the update interval |
//!
//! A set without rules matches nothing. Its component says why: it is degraded while the first download goes on, fails
//! with it, and the supervisor starts it anew with its usual backoff; at a strict start all that listens waits for it. A
//! set that once had rules keeps them until there are better ones. Sets that no rule refers to are read once, to find
//! mistakes, and forgotten; remote ones are not downloaded, unless the start is strict.

mod component;
mod file;
mod library;
mod references;
mod remote;
mod set;
#[cfg(test)]
mod tests;

pub use library::{Client, Draft, Library};
