//! Protocol plugins and their registry.

use std::{collections::HashMap, sync::Arc, sync::OnceLock};

pub use crosspoint_schema::Kind;
use crosspoint_schema::{ConfigError, RawOptions, decode::Map, json_schema::ObjectSchema};

use crate::component::Spec;

/// Kinds in the order in which they start; they stop in the reverse.
pub const START_ORDER: [Kind; 5] =
    [Kind::DnsServer, Kind::Outbound, Kind::Endpoint, Kind::Service, Kind::Inbound];

/// Place of a kind in [`START_ORDER`].
pub fn start_rank(kind: Kind) -> usize {
    START_ORDER.iter().position(|k| *k == kind).unwrap_or(START_ORDER.len())
}

/// One protocol in one role. Submitted with `inventory::submit!` by the folder that implements it.
#[derive(Debug)]
pub struct Plugin {
    /// The role.
    pub kind: Kind,
    /// The value of `type` in the configuration.
    pub type_name: &'static str,
    /// Describes the options for `crosspoint schema`.
    pub schema: fn(&mut ObjectSchema<'_>),
    /// Decodes the options and prints them as `format` does, whether or not a component can be made of
    /// them: [`RawOptions::canonical`] of the options type.
    pub canonical: fn(RawOptions<'_>) -> Result<Map, ConfigError>,
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
