//! The item `rule_set` of a rule.

use std::sync::Arc;

use crate::{
    facts::Facts,
    rule::State,
    slot::{RuleSetSlot, RuleSets},
};

/// `rule_set` with its options: matches if a rule of one of the sets does.
#[derive(Debug)]
pub(crate) struct SetItem {
    slots: Box<[Arc<RuleSetSlot>]>,
    tags: Box<[Box<str>]>,
    missing: Option<Box<str>>,
    match_source: bool,
    accept_empty: bool,
    /// See [`crate::RULE_SET_FLAG_LEAK`].
    leak: bool,
}

impl SetItem {
    pub(crate) fn new(
        tags: &[String],
        sets: &RuleSets,
        match_source: bool,
        accept_empty: bool,
    ) -> Self {
        Self {
            slots: tags.iter().filter_map(|tag| sets.get(tag)).cloned().collect(),
            tags: tags.iter().map(|tag| tag.as_str().into()).collect(),
            missing: tags.iter().find(|tag| sets.get(tag).is_none()).map(|tag| tag.as_str().into()),
            match_source,
            accept_empty,
            leak: sets.compat().flag_leak,
        }
    }

    /// Whether a rule of a set matches. Its groups count for the rule that refers to the set, too.
    pub(crate) fn matches(&self, facts: &Facts<'_>, state: &mut State) -> bool {
        let in_set = state.in_set;
        state.match_source = self.match_source;
        state.accept_empty = self.accept_empty;
        state.in_set = true;
        let matched = self.slots.iter().any(|slot| match &*slot.peek() {
            Some(set) => set.rules().iter().any(|rule| {
                let mut own = *state;
                let matched = rule.matches_in(facts, &mut own);
                if matched || self.leak {
                    *state = own;
                }
                matched
            }),
            None => false,
        });
        state.in_set = in_set;
        matched
    }

    /// Whether the sets, as they are now, hold prefixes of the destination.
    pub(crate) fn needs_answer(&self) -> bool {
        !self.match_source
            && self
                .slots
                .iter()
                .any(|slot| slot.peek().as_ref().is_some_and(|set| set.has_ip_cidr()))
    }

    /// Whether the sets, as they are now, look at processes.
    pub(crate) fn needs_process(&self) -> bool {
        self.slots.iter().any(|slot| slot.needs_process())
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(|tag| &**tag)
    }

    pub(crate) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}
