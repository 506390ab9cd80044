//! A configuration, parsed and ready to be planned.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::{
    BoxFuture, BuildError, Kind, Tag,
    component::Spec,
    plugin::start_rank,
    resolve::Resolve,
    snapshot::{Namespace, RouteDefaults, RouteTable, Snapshot},
    state::OpenState,
};

/// Identity of a component across reloads: its kind and its tag. An untagged component is known by
/// its index, because that is the name by which rules of the reference can refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ComponentId {
    /// The role.
    pub kind: Kind,
    /// The tag, or the index in its list.
    pub tag: Tag,
}

impl ComponentId {
    /// An identity.
    pub fn new(kind: Kind, tag: impl Into<Tag>) -> Self {
        Self { kind, tag: tag.into() }
    }

    /// Reads `kind/tag` as `ctl` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, tag) = text.split_once('/')?;
        Some(Self::new(Kind::from_name(kind)?, tag))
    }
}

impl Ord for ComponentId {
    /// Start order first, then by name.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |id: &Self| (start_rank(id.kind), id.tag.clone());
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for ComponentId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.tag)
    }
}

/// One component that a configuration asks for.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Who.
    pub id: ComponentId,
    /// The protocol.
    pub type_name: &'static str,
    /// The options.
    pub spec: Arc<dyn Spec>,
    /// Where in the configuration it stands, e.g. `inbounds[0]`; empty for implicit ones.
    pub path: String,
}

/// How failing components are restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// First delay before a restart.
    pub backoff_min: Duration,
    /// Longest delay; also the retry interval of a degraded component.
    pub backoff_max: Duration,
    /// More restarts than this within `window` make a component degraded.
    pub max_restarts: u32,
    /// See `max_restarts`.
    pub window: Duration,
    /// A component that was healthy for this long starts with `backoff_min` again.
    pub reset_after: Duration,
    /// How often worker loops are asked for a sign of life; two silences restart the component.
    pub pulse: Duration,
    /// Longest time that building a component may take.
    pub start_deadline: Duration,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            max_restarts: 8,
            window: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
            pulse: super::DEFAULT_PULSE,
            start_deadline: Duration::from_secs(10),
        }
    }
}

/// Settings of the kernel itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Restart policy.
    pub supervision: Supervision,
    /// How long the flows of a removed component may go on.
    pub drain: Duration,
    /// Whether a component that cannot start ends the daemon, as in the reference.
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { supervision: Supervision::default(), drain: Duration::from_secs(30), strict: false }
    }
}

/// The shared parts of a generation, built for its name space.
pub struct Assembly {
    /// Rules.
    pub routes: Arc<dyn RouteTable>,
    /// The resolver.
    pub resolver: Arc<dyn Resolve>,
    /// Fallbacks of dialers.
    pub defaults: RouteDefaults,
}

impl Assembly {
    /// The parts of [`Snapshot::empty`].
    pub fn empty() -> Self {
        let Snapshot { routes, resolver, defaults, .. } = Snapshot::empty();
        Self { routes, resolver, defaults }
    }
}

/// Builds the shared parts.
pub type Assemble = Box<dyn FnOnce(&Arc<Namespace>) -> Result<Assembly, BuildError> + Send>;

/// A configuration, parsed: everything that a reload needs.
pub struct Blueprint {
    /// All components, in configuration order.
    pub components: Vec<Planned>,
    /// Tags that rules and other shared parts refer to, with the place where they do.
    pub references: Vec<(crate::component::Dep, String)>,
    /// Where unrouted connections go.
    pub default_outbound: Option<Tag>,
    /// Opens the state that outlives the process; `None` to remember things in memory only.
    pub state: Option<OpenState>,
    /// Builds rules and resolver.
    pub assemble: Assemble,
    /// Settings of the kernel.
    pub settings: Settings,
    /// Canonical text of the parts that are no components (`route`, `dns`, `log`, …), to tell what
    /// a reload changed.
    pub shared: BTreeMap<&'static str, serde_json::Value>,
    /// Runs once when the blueprint is committed (log level and the like). Must not block.
    pub on_commit: Box<dyn FnOnce() + Send>,
    /// At boot, inbounds and whatever else listens are built when everything else is in force and this has come; an
    /// error ends the start in its words. No reload waits for it.
    pub before_inbounds: Option<BoxFuture<'static, Result<(), String>>>,
}

/// Why a configuration could not be loaded, in the words of the loader.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// Reads the configuration anew. Called on a thread that may block.
pub type Loader = Arc<dyn Fn() -> Result<Blueprint, LoadError> + Send + Sync>;
