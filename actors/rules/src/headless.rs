//! Rule-sets as they are matched.

use crosspoint_schema::options::{HeadlessMatchers, RuleSetFile};

use crate::{
    compile::{Binary, Fields, Refusal},
    facts::Facts,
    format,
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
    pub fn from_file(file: RuleSetFile, compat: Compat) -> Result<Self, RuleError> {
        Self::new(file.into(), compat)
    }

    /// Compiles the rules of any file, or of an inline set.
    ///
    /// # Errors
    /// The first rule that is refused, in the reference's words.
    pub fn new(rules: format::Rules, compat: Compat) -> Result<Self, RuleError> {
        let any = |test: &dyn Fn(&format::DefaultRule) -> bool| {
            rules.rules.iter().any(|rule| has(rule, test))
        };
        let ip_cidr = any(&|rule| !rule.matchers.ip_cidr.is_empty() || rule.ips.is_some());
        let process = any(&|rule| looks_at_process(&rule.matchers));
        let wifi = any(&|rule| {
            !rule.matchers.wifi_ssid.is_empty() || !rule.matchers.wifi_bssid.is_empty()
        });
        let compile = |(index, options)| {
            rule(options, compat).map_err(|refusal| RuleError { index, refusal })
        };
        let rules = rules.rules.into_iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { rules, ip_cidr, process, wifi })
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

fn rule(options: format::Rule, compat: Compat) -> Result<Rule, Refusal> {
    if !is_valid(&options) {
        return Err(Refusal::whole("missing conditions"));
    }
    match options {
        format::Rule::Default(options) => {
            let format::DefaultRule { matchers, names, adguard, source_ips, ips } = *options;
            let mut fields = Fields::from(&matchers);
            if compat.no_query_type {
                fields.query_type = &[];
            }
            fields.binary = Binary {
                domains: names.map(Into::into),
                adguard: adguard.map(Into::into),
                source_cidrs: source_ips.map(Into::into),
                cidrs: ips.map(Into::into),
            };
            Rule::headless(fields)
        }
        format::Rule::Logical(logical) => {
            Rule::logical(&logical.mode, logical.rules, logical.invert, |inner| rule(inner, compat))
        }
    }
}

/// Whether the rule has conditions.
fn is_valid(rule: &format::Rule) -> bool {
    match rule {
        format::Rule::Default(rule) => {
            let format::DefaultRule { matchers, names, adguard, source_ips, ips } = &**rule;
            names.is_some()
                || adguard.is_some()
                || source_ips.is_some()
                || ips.is_some()
                || *matchers
                    != HeadlessMatchers { invert: matchers.invert, ..HeadlessMatchers::default() }
        }
        format::Rule::Logical(rule) => !rule.rules.is_empty() && rule.rules.iter().all(is_valid),
    }
}

fn has(rule: &format::Rule, test: &dyn Fn(&format::DefaultRule) -> bool) -> bool {
    match rule {
        format::Rule::Default(rule) => test(rule),
        format::Rule::Logical(logical) => logical.rules.iter().any(|rule| has(rule, test)),
    }
}

fn looks_at_process(m: &HeadlessMatchers) -> bool {
    !m.process_name.is_empty()
        || !m.process_path.is_empty()
        || !m.process_path_regex.is_empty()
        || !m.package_name.is_empty()
}
