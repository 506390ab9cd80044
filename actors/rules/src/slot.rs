//! Where rules find the rule-set that a tag stands for, whatever is loaded at the moment.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::{ArcSwapOption, Guard};
use crosspoint_schema::Config;
use tokio::sync::watch;

use crate::headless::Compiled;

/// The compatibility switch that brings back a bug of the reference: what the address and port groups of one rule of
/// a set have found counts for the next rule of the set, even if the first did not match.
pub const RULE_SET_FLAG_LEAK: &str = "rule-set-flag-leak";
/// The compatibility switch that brings back a bug of the reference: `query_type` in a rule of a set is never looked at,
/// so that a rule with nothing else always matches.
pub const HEADLESS_QUERY_TYPE: &str = "headless-query-type";

/// Which bugs of the reference are kept: `crosspoint.compat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Compat {
    /// [`RULE_SET_FLAG_LEAK`].
    pub flag_leak: bool,
    /// [`HEADLESS_QUERY_TYPE`].
    pub no_query_type: bool,
}

impl Compat {
    /// What a configuration asks for.
    pub fn of(config: &Config) -> Self {
        let has = |switch: &str| {
            config.crosspoint.iter().flat_map(|own| own.compat.iter()).any(|name| name == switch)
        };
        Self { flag_leak: has(RULE_SET_FLAG_LEAK), no_query_type: has(HEADLESS_QUERY_TYPE) }
    }
}

/// A rule-set by its tag. Rules hold the slot; whoever loads the set puts it in. Empty, it matches nothing.
#[derive(Debug)]
pub struct RuleSetSlot {
    tag: Box<str>,
    live: ArcSwapOption<Compiled>,
    generation: watch::Sender<u64>,
    /// Kept beside the set, since every connection asks for it.
    process: AtomicBool,
}

impl RuleSetSlot {
    /// An empty slot.
    pub fn new(tag: &str) -> Arc<Self> {
        Arc::new(Self {
            tag: tag.into(),
            live: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            process: AtomicBool::new(false),
        })
    }

    /// The tag of the set.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Puts a set in force, for connections that are routed from now on.
    pub fn store(&self, set: Arc<Compiled>) {
        self.process.store(set.needs_process(), Ordering::Relaxed);
        self.live.store(Some(set));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The set that is in force.
    pub fn load(&self) -> Option<Arc<Compiled>> {
        self.live.load_full()
    }

    /// Whether the set that is in force looks at the process behind a connection.
    pub fn needs_process(&self) -> bool {
        self.process.load(Ordering::Relaxed)
    }

    pub(crate) fn peek(&self) -> Guard<Option<Arc<Compiled>>> {
        self.live.load()
    }

    /// How many sets have been in force; 0 for an empty slot.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Tells of each new set.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

/// The rule-sets of a configuration by tag. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RuleSets(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<Box<str>, Arc<RuleSetSlot>>,
    compat: Compat,
}

impl RuleSets {
    /// These slots; the last of several with one tag counts.
    pub fn new(slots: impl IntoIterator<Item = Arc<RuleSetSlot>>, compat: Compat) -> Self {
        let slots = slots.into_iter().map(|slot| (slot.tag.clone(), slot)).collect();
        Self(Arc::new(Inner { slots, compat }))
    }

    /// The slot of a tag.
    pub fn get(&self, tag: &str) -> Option<&Arc<RuleSetSlot>> {
        self.0.slots.get(tag)
    }

    /// All slots, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RuleSetSlot>> {
        self.0.slots.values()
    }

    /// Which bugs of the reference are kept.
    pub fn compat(&self) -> Compat {
        self.0.compat
    }
}
