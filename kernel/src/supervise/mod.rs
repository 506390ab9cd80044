//! Supervision: the only part of the kernel that knows actors.
//!
//! ```text
//! root            its failure ends the process with 70
//! ├ config        one reload at a time: plan → warm → commit → drain
//! └ supervisor    owns every component; its handlers never await
//!   └ leaf …      one actor per instance of a component
//! ```
//! Leaves never escalate: a leaf that fails is restarted with backoff, and one that keeps failing is
//! degraded, while the rest serves. What must survive a crash (sockets, connections, slots) lives
//! in the [`Plane`](crate::snapshot::Plane), not in an actor.

mod backoff;
mod blueprint;
mod child;
mod condition;
mod leaf;
mod plan;
mod pulse;
mod reload;
mod root;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;

pub use blueprint::{
    Assemble, Assembly, Blueprint, ComponentId, LoadError, Loader, Planned, Settings, Supervision,
};
pub use condition::Condition;
pub use plan::{Action, Plan, Problem, Running, plan, validate};
pub use pulse::{DEFAULT_PULSE, Pulse};
pub use reload::{Event, Observer};
pub use root::{BootError, EXIT_SOFTWARE, Gone, Handle, boot};
pub use status::{ComponentStatus, Outcome, ReloadReport, State, Status};
