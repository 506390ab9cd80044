//! The table of recorded verdicts: what the reference says of a configuration, and whether a
//! subject says the same.
//!
//! A vector holds one configuration with the exit code, the place of the error (the text before
//! the cause, see [`locus`]) and the canonical form. Words of a cause are not compared: ours say
//! more. Two lists stand beside the vectors: [`lists::Pending`], of vectors whose types are not
//! built yet, and [`lists::Deviations`], of differences that are meant.

pub mod lists;
pub mod locus;
mod run;
mod uses;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::workspace;

pub use run::{Outcome, run_all};
pub use uses::uses;

/// Which command a vector is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `check -c config.json`.
    Check,
    /// `format -c config.json`.
    Format,
}

impl Command {
    /// The word on the command line, also the name of the suite.
    pub fn name(self) -> &'static str {
        match self {
            Command::Check => "check",
            Command::Format => "format",
        }
    }
}

/// One configuration and what the reference makes of it.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Unique within the command.
    pub name: String,
    /// The command it is for.
    pub command: Command,
    /// The text of the configuration.
    pub config: String,
    /// Environment of the run.
    pub env: Vec<(String, String)>,
    /// The verdict.
    pub expected: Outcome,
    /// The recorded verdict is about a missing build tag and says nothing of the option.
    pub lacks_build_tag: bool,
}

/// The folder of the vectors.
pub fn dir() -> PathBuf {
    workspace::conformance_dir().join("vectors").join("config")
}

/// The vectors of a command.
///
/// # Errors
/// When the file is missing or a line of it cannot be read.
pub fn load(command: Command) -> Result<Vec<Vector>> {
    let path = dir().join(format!("{}.jsonl", command.name()));
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let parse = |(number, line): (usize, &str)| {
        match command {
            Command::Check => check_vector(line),
            Command::Format => format_vector(line),
        }
        .with_context(|| format!("{} line {}", path.display(), number + 1))
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(parse).collect()
}

#[derive(Deserialize)]
struct CheckLine {
    name: String,
    config: String,
    env: serde_json::Map<String, Value>,
    exit: i32,
    stderr: String,
    reference_lacks_build_tag: bool,
}

fn check_vector(line: &str) -> Result<Vector> {
    let line: CheckLine = serde_json::from_str(line)?;
    let env = line.env.into_iter();
    Ok(Vector {
        name: line.name,
        command: Command::Check,
        config: line.config,
        env: env.map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned())).collect(),
        expected: Outcome::new(line.exit, line.stderr, None),
        lacks_build_tag: line.reference_lacks_build_tag,
    })
}

#[derive(Deserialize)]
struct FormatLine {
    option: String,
    kind: String,
    config: Value,
    accepted: bool,
    canonical: Value,
    stderr: String,
}

fn format_vector(line: &str) -> Result<Vector> {
    let line: FormatLine = serde_json::from_str(line)?;
    let exit = match (line.accepted, line.stderr.starts_with("panic")) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    };
    Ok(Vector {
        name: format!("{} {}", line.option, line.kind),
        command: Command::Format,
        config: serde_json::to_string(&line.config)?,
        env: deprecated_features(),
        expected: Outcome::new(exit, line.stderr, line.accepted.then_some(line.canonical)),
        lacks_build_tag: false,
    })
}

/// The variables that were set when the format vectors were made.
fn deprecated_features() -> Vec<(String, String)> {
    [
        "DESTINATION_OVERRIDE_FIELDS",
        "GEOIP",
        "GEOSITE",
        "INBOUND_OPTIONS",
        "LEGACY_DNS_FAKEIP_OPTIONS",
        "LEGACY_DNS_SERVERS",
        "LEGACY_DOMAIN_STRATEGY_OPTIONS",
        "LEGACY_ECH_OPTIONS",
        "MISSING_DOMAIN_RESOLVER",
        "OUTBOUND_DNS_RULE_ITEM",
        "SPECIAL_OUTBOUNDS",
        "TUN_ADDRESS_X",
        "TUN_GSO",
        "WIREGUARD_GSO",
        "WIREGUARD_OUTBOUND",
    ]
    .map(|name| (format!("ENABLE_DEPRECATED_{name}"), "true".to_owned()))
    .to_vec()
}
