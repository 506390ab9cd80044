//! Rules for DNS queries.

use crosspoint_schema::options::DnsRule;

use crate::{
    compile::Refusal,
    facts::Facts,
    rule::{Rule, State},
    slot::RuleSets,
};

/// The conditions of a DNS rule. They are looked at twice where they limit the addresses of an answer: before a server
/// is asked, with everything that is known by then ([`Self::matches`]), and on the answer
/// ([`Self::matches_address_limit`]).
#[derive(Debug)]
pub struct DnsMatcher {
    rule: Rule,
    leak: bool,
}

impl DnsMatcher {
    /// Compiles the conditions of a rule; the action is the caller's. Rule-sets that do not exist are told by
    /// [`Self::missing_rule_set`], since the reference finds them later than all of these errors.
    ///
    /// # Errors
    /// What the reference refuses, in its words, to be put behind `parse dns rule[N]: `; beginning with
    /// `missing conditions`. A missing server of an action comes right after that one.
    pub fn compile(rule: &DnsRule, sets: &RuleSets) -> Result<Self, Refusal> {
        Ok(Self { rule: Rule::dns(rule, sets)?, leak: sets.compat().flag_leak })
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Whether the rule applies to a query, as far as that can be told without the answer.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.rule.matches_in(facts, &mut State::before_answer())
    }

    /// Whether the rule accepts only answers with certain addresses: then it applies to queries for addresses only.
    /// Depends on what its rule-sets hold at the moment.
    pub fn has_address_limit(&self) -> bool {
        self.rule.needs_answer()
    }

    /// Whether the rule that matched before accepts the answer in `facts` (see [`Facts::with_answer`]).
    pub fn matches_address_limit(&self, facts: &Facts<'_>) -> bool {
        let mut state = State::default();
        if self.leak {
            // In the reference the second look begins with what the first has left behind.
            state = State::before_answer();
            self.rule.matches_in(facts, &mut state);
            state = state.answered();
        }
        self.rule.matches_in(facts, &mut state)
    }

    /// Whether it looks at the process behind a connection. May change when a rule-set is loaded anew.
    pub fn needs_process(&self) -> bool {
        self.rule.needs_process()
    }

    /// The first rule-set that it refers to and that does not exist: `rule-set not found: TAG` at start.
    pub fn missing_rule_set(&self) -> Option<&str> {
        self.rule.missing_rule_set()
    }

    /// The tags of its rule-sets.
    pub fn rule_sets(&self) -> Vec<&str> {
        self.rule.rule_sets()
    }
}
