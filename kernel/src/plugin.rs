//! Protocol plugins and their registry.

use std::{collections::HashMap, fmt, sync::Arc, sync::OnceLock};

use crosspoint_schema::{ConfigError, RawOptions, SchemaBuilder};

use crate::component::Spec;

/// What a component is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A DNS server that the resolver asks.
    DnsServer,
    /// Opens connections.
    Outbound,
    /// Both at once, on packets.
    Endpoint,
    /// Owns connections of its own.
    Service,
    /// Accepts connections.
    Inbound,
}

impl Kind {
    /// All kinds in the order in which they start; they stop in the reverse.
    pub const START_ORDER: [Self; 5] =
        [Self::DnsServer, Self::Outbound, Self::Endpoint, Self::Service, Self::Inbound];

    /// The word used in logs, in `ctl` and in component prefixes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DnsServer => "dns",
            Self::Outbound => "outbound",
            Self::Endpoint => "endpoint",
            Self::Service => "service",
            Self::Inbound => "inbound",
        }
    }

    /// The kind that [`Kind::as_str`] names.
    pub fn parse(text: &str) -> Option<Self> {
        Self::START_ORDER.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One protocol in one role. Submitted with `inventory::submit!` by the folder that implements it.
#[derive(Debug)]
pub struct Plugin {
    /// The role.
    pub kind: Kind,
    /// The value of `type` in the configuration.
    pub type_name: &'static str,
    /// Describes the options for `crosspoint schema`.
    pub schema: fn(&mut SchemaBuilder),
    /// Turns options into a spec. Must find everything wrong that needs no system call.
    pub parse: fn(RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError>,
}

inventory::collect!(Plugin);

/// Every plugin that is linked into this binary, by kind and type.
pub fn registry() -> &'static HashMap<(Kind, &'static str), &'static Plugin> {
    static REGISTRY: OnceLock<HashMap<(Kind, &'static str), &'static Plugin>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        inventory::iter::<Plugin>.into_iter().map(|p| ((p.kind, p.type_name), p)).collect()
    })
}

/// Plugins that were registered twice under the same kind and type: a defect of the build, reported
/// at start instead of letting the linker's order decide which one wins.
pub fn duplicates() -> Vec<(Kind, &'static str)> {
    let mut seen = HashMap::new();
    for plugin in inventory::iter::<Plugin> {
        *seen.entry((plugin.kind, plugin.type_name)).or_insert(0u32) += 1;
    }
    seen.into_iter().filter(|(_, count)| *count > 1).map(|(key, _)| key).collect()
}
