//! What `ctl status` and the answers to a reload tell.

use std::time::Duration;

use super::blueprint::ComponentId;

/// Where a component stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being built for the first time or after a failure.
    Starting,
    /// Serving.
    Up,
    /// Failed; a restart is scheduled.
    Backoff,
    /// Keeps failing; retried slowly, uses fail at once. Or it serves, and says that something is missing.
    Degraded,
    /// An old instance that serves its flows to their end.
    Draining,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Backoff => "backoff",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
        }
    }
}

/// One component.
#[derive(Clone, Debug)]
pub struct ComponentStatus {
    /// Kind and tag.
    pub id: ComponentId,
    /// The protocol.
    pub type_name: &'static str,
    /// Where it stands.
    pub state: State,
    /// Which instance serves (or served last).
    pub epoch: u64,
    /// Restarts after failures since it was configured.
    pub restarts: u64,
    /// Why it failed last, or what is missing.
    pub last_error: Option<String>,
}

/// The daemon.
#[derive(Clone, Debug)]
pub struct Status {
    /// Committed configurations.
    pub generation: u64,
    /// Live connections.
    pub connections: usize,
    /// Listening sockets.
    pub sockets: usize,
    /// Time since start.
    pub uptime: Duration,
    /// All components, running ones first, then draining instances.
    pub components: Vec<ComponentStatus>,
}

/// What became of one component in a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Untouched.
    Kept,
    /// Took the new options while running.
    Reconfigured,
    /// A new instance serves; old flows go on.
    Replaced,
    /// New.
    Added,
    /// Gone; its flows drain.
    Removed,
    /// Could not be built.
    Failed,
}

impl Outcome {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Reconfigured => "reconfigured",
            Self::Replaced => "replaced",
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }
}

/// The answer to a reload.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// The generation now in force.
    pub generation: u64,
    /// Whether the new configuration was committed.
    pub committed: bool,
    /// Why it was not.
    pub error: Option<String>,
    /// What became of each component.
    pub components: Vec<(ComponentId, Outcome, Option<String>)>,
    /// Shared parts (`route`, `dns`, `log` …) that differ from the generation before.
    pub changed: Vec<&'static str>,
}
