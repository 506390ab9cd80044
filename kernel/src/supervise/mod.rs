//! Supervision: the only part of the kernel that knows actors.

mod pulse;

pub use pulse::{DEFAULT_PULSE, Pulse};
