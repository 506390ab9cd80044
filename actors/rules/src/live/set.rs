//! One rule-set of a configuration.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crosspoint_schema::{
    Field,
    options::{RemoteRuleSet, RuleSet, RuleSetFormat, RuleSetSource},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::file::Identity;
use crate::{
    Compiled,
    format::{self, Rule, Rules},
    slot::{Compat, RuleSetSlot},
};

/// Time between two downloads where the options say nothing.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// More often than this nothing is downloaded.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Tells a set from one of the same tag with other options. Of inline sets, the rules count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64, usize, Compat);

impl Fingerprint {
    pub(super) fn of(options: &RuleSet, compat: Compat) -> Self {
        let text = options.to_json().to_string();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish(), text.len(), compat)
    }
}

/// Where the rules of a set come from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Inline,
    Local { path: String, format: RuleSetFormat },
    Remote { options: RemoteRuleSet, format: RuleSetFormat },
}

/// What came of the first download.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum First {
    #[default]
    Pending,
    Done,
    Failed(String),
}

/// What is known of the rules in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The file that was read; `None` if there was none.
    pub(super) file: Option<Identity>,
    /// When the rules were downloaded or found unchanged; `None` to do so at once.
    pub(super) updated: Option<SystemTime>,
    /// The `ETag` they came with.
    pub(super) etag: String,
}

/// A rule-set of a configuration.
#[derive(Debug)]
pub(super) struct LiveSet {
    /// A rule refers to it. The rules of any other set are looked at to find mistakes, and forgotten.
    pub(super) named: bool,
    /// Its place in the configuration that brought it.
    pub(super) index: usize,
    pub(super) fingerprint: Fingerprint,
    pub(super) origin: Origin,
    pub(super) slot: Arc<RuleSetSlot>,
    pub(super) known: Mutex<Known>,
    pub(super) first: watch::Sender<First>,
    compat: Compat,
}

impl LiveSet {
    pub(super) fn new(
        index: usize,
        options: &RuleSet,
        fingerprint: Fingerprint,
        compat: Compat,
        named: bool,
    ) -> Self {
        let format = options.format.unwrap_or_default();
        let origin = match &options.source {
            RuleSetSource::Inline(_) => Origin::Inline,
            RuleSetSource::Local(local) => Origin::Local { path: local.path.clone(), format },
            RuleSetSource::Remote(remote) => Origin::Remote { options: remote.clone(), format },
        };
        Self {
            named,
            index,
            fingerprint,
            origin,
            slot: RuleSetSlot::new(&options.tag),
            known: Mutex::default(),
            first: watch::Sender::default(),
            compat,
        }
    }

    pub(super) fn tag(&self) -> &str {
        self.slot.tag()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slot.generation() == 0
    }

    pub(super) fn is_remote(&self) -> bool {
        matches!(self.origin, Origin::Remote { .. })
    }

    /// Time between two downloads.
    pub(super) fn interval(&self) -> Duration {
        match &self.origin {
            Origin::Remote { options, .. } if !options.update_interval.get().is_zero() => {
                options.update_interval.get().max(MIN_INTERVAL)
            }
            _ => DEFAULT_INTERVAL,
        }
    }

    /// Puts rules in force.
    pub(super) fn put(&self, rules: Rules) -> Result<(), String> {
        let compiled = Compiled::new(rules, self.compat).map_err(|error| error.to_string())?;
        self.slot.store(Arc::new(if self.named { compiled } else { Compiled::default() }));
        Ok(())
    }

    /// Puts the rules of a file in force.
    pub(super) fn put_bytes(&self, format: RuleSetFormat, bytes: &[u8]) -> Result<(), String> {
        self.put(format::read(format, bytes).map_err(|error| error.to_string())?)
    }

    /// Puts the rules of the configuration in force.
    pub(super) fn put_inline(&self, options: &RuleSet) -> Result<(), String> {
        let RuleSetSource::Inline(plain) = &options.source else { return Ok(()) };
        if plain.rules.is_empty() {
            return Err("empty inline rule-set".to_owned());
        }
        let rules = plain.rules.iter().cloned().map(Rule::from).collect();
        self.put(Rules { version: format::CURRENT_VERSION, rules })
    }

    /// Takes the rules of a set of the same tag, until there are new ones. What is known of them counts if they came
    /// from the same place.
    pub(super) fn inherit(&self, before: &Self) {
        let (Origin::Remote { options, format }, Origin::Remote { options: old, format: as_old }) =
            (&self.origin, &before.origin)
        else {
            return;
        };
        let Some(rules) = before.slot.load().filter(|_| self.compat == before.compat) else {
            return;
        };
        self.slot.store(rules);
        self.first.send_replace(First::Done);
        if (&options.url, format) == (&old.url, as_old) {
            *self.known.lock() = before.known.lock().clone();
        }
    }
}
