//! Rule-sets as they are matched.

use crosspoint_schema::options::{HeadlessMatchers, HeadlessRule, RuleSetFile};

use crate::{
    compile::{Fields, Refusal},
    facts::Facts,
    rule::{Rule, State},
    slot::Compat,
};

/// A rule of a set that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse rule_set.rules.[{index}]: {refusal}")]
pub struct RuleError {
    /// Its place in the set, from 0.
    pub index: usize,
    /// What is wrong.
    pub refusal: Refusal,
}

/// The rules of a set, compiled. It matches if one of them does.
#[derive(Debug, Default)]
pub struct Compiled {
    rules: Box<[Rule]>,
    ip_cidr: bool,
    process: bool,
    wifi: bool,
}

impl Compiled {
    /// Compiles the rules of a source file.
    ///
    /// # Errors
    /// The first rule that is refused, in the reference's words.
    pub fn from_file(file: &RuleSetFile, compat: Compat) -> Result<Self, RuleError> {
        Self::from_rules(&file.rules.rules, compat)
    }

    /// Compiles rules, of an inline set for instance.
    ///
    /// # Errors
    /// The first rule that is refused, in the reference's words.
    pub fn from_rules(rules: &[HeadlessRule], compat: Compat) -> Result<Self, RuleError> {
        let compile = |(index, options): (usize, &HeadlessRule)| {
            rule(options, compat).map_err(|refusal| RuleError { index, refusal })
        };
        let compiled = rules.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        let any =
            |test: &dyn Fn(&HeadlessMatchers) -> bool| rules.iter().any(|rule| has(rule, test));
        Ok(Self {
            rules: compiled,
            ip_cidr: any(&|m| !m.ip_cidr.is_empty()),
            process: any(&|m| {
                !m.process_name.is_empty()
                    || !m.process_path.is_empty()
                    || !m.process_path_regex.is_empty()
                    || !m.package_name.is_empty()
            }),
            wifi: any(&|m| !m.wifi_ssid.is_empty() || !m.wifi_bssid.is_empty()),
        })
    }

    /// The numbers of the rules that match, each looked at by itself.
    pub fn matching(&self, facts: &Facts<'_>) -> impl Iterator<Item = usize> {
        let matches = |rule: &Rule| rule.matches_in(facts, &mut State::in_set());
        self.rules.iter().enumerate().filter(move |(_, rule)| matches(rule)).map(|(index, _)| index)
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule: such a set matches nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule has prefixes of the destination.
    pub fn has_ip_cidr(&self) -> bool {
        self.ip_cidr
    }

    /// Whether a rule looks at the process behind a connection.
    pub fn needs_process(&self) -> bool {
        self.process
    }

    /// Whether a rule looks at the Wi-Fi network.
    pub fn needs_wifi(&self) -> bool {
        self.wifi
    }
}

fn rule(options: &HeadlessRule, compat: Compat) -> Result<Rule, Refusal> {
    if !options.is_valid() {
        return Err(Refusal::whole("missing conditions"));
    }
    match options {
        HeadlessRule::Default(matchers) => {
            let mut fields = Fields::from(&**matchers);
            if compat.no_query_type {
                fields.query_type = &[];
            }
            Rule::headless(&fields)
        }
        HeadlessRule::Logical(logical) => {
            Rule::logical(&logical.mode, &logical.rules, logical.invert, |inner| {
                rule(inner, compat)
            })
        }
    }
}

fn has(rule: &HeadlessRule, test: &dyn Fn(&HeadlessMatchers) -> bool) -> bool {
    match rule {
        HeadlessRule::Default(matchers) => test(matchers),
        HeadlessRule::Logical(logical) => logical.rules.iter().any(|rule| has(rule, test)),
    }
}
