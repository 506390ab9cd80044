//! From decoded rules to rules that can be matched, with the reference's errors.

mod fields;
mod matchers;

use std::fmt;

use crosspoint_schema::options::{DnsRule, RuleMatchers};

pub(crate) use fields::{Binary, Fields};

use crate::{
    rule::{Kind, Rule},
    slot::RuleSets,
};

/// What is wrong with a rule: the place within it (`.rules[1].port`) and the cause in the reference's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The place, relative to the rule; empty for the whole.
    pub path: String,
    /// The cause.
    pub message: String,
}

impl Refusal {
    /// A member that is refused.
    pub fn new(key: &str, message: impl fmt::Display) -> Self {
        Self { path: format!(".{key}"), message: message.to_string() }
    }

    /// A rule that is refused as a whole.
    pub fn whole(message: impl fmt::Display) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }

    /// A feature that this build does not have.
    pub fn not_built(key: &str, what: impl fmt::Display) -> Self {
        Self::new(key, format_args!("{what} is not in this build"))
    }

    /// Puts what was being made in front of the cause.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl Rule {
    /// Compiles the matchers of a rule of the router. Errors come in the order in which the reference reads the members.
    ///
    /// # Errors
    /// What the reference refuses, to be put behind `parse rule[N]: `.
    pub fn matchers(matchers: &RuleMatchers, sets: &RuleSets) -> Result<Self, Refusal> {
        matchers::compile(Fields::from(matchers), sets)
    }

    /// Combines rules as `mode` tells, each compiled by `compile`.
    ///
    /// # Errors
    /// A mode that is neither `and` nor `or`; then the first rule that is refused.
    pub fn logical<T>(
        mode: &str,
        rules: impl IntoIterator<Item = T>,
        invert: bool,
        compile: impl Fn(T) -> Result<Self, Refusal>,
    ) -> Result<Self, Refusal> {
        let or = match mode {
            "and" => false,
            "or" => true,
            other => {
                return Err(Refusal::new("mode", format_args!("unknown logical mode: {other}")));
            }
        };
        let rules = rules.into_iter().enumerate().map(|(index, inner)| {
            compile(inner).map_err(|refusal| Refusal {
                path: format!(".rules[{index}]{}", refusal.path),
                message: format!("sub rule[{index}]: {}", refusal.message),
            })
        });
        Ok(Self(Kind::Logical { or, rules: rules.collect::<Result<_, _>>()?, invert }))
    }

    /// Compiles the conditions of a DNS rule.
    pub(crate) fn dns(rule: &DnsRule, sets: &RuleSets) -> Result<Self, Refusal> {
        if !rule.is_valid() {
            return Err(Refusal::whole("missing conditions"));
        }
        match rule {
            DnsRule::Default(rule) => matchers::compile(Fields::from(&rule.matchers), sets),
            DnsRule::Logical(rule) => {
                Self::logical(&rule.mode, &rule.rules, rule.invert, |rule| Self::dns(rule, sets))
            }
        }
    }

    /// Compiles a rule of a set, which refers to no other set.
    pub(crate) fn headless(fields: Fields<'_>) -> Result<Self, Refusal> {
        matchers::compile(fields, &RuleSets::default())
    }
}
