//! From decoded rules to rules that can be matched, with the reference's errors.

mod action;

use std::fmt;

use crosspoint_kernel::component::Dep;
use crosspoint_rules::{Refusal, Rule, RuleSets};
use crosspoint_schema::{
    Config, ConfigError,
    options::{DnsRule, RouteOptions, Rule as RuleOptions},
};
use tracing::warn;

use crate::action::Action;

/// A rule with its action.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Rule,
    pub(crate) action: Action,
    needs_process: bool,
    has_rule_sets: bool,
}

impl Entry {
    /// Whether the rule looks at the process behind a connection.
    pub(crate) fn needs_process(&self) -> bool {
        self.needs_process || (self.has_rule_sets && self.rule.needs_process())
    }
}

/// Everything that routing needs from the configuration.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) entries: Vec<Entry>,
    pub(crate) find_process: bool,
    pub(crate) references: Vec<(Dep, String)>,
    /// The first rule that refers to a rule-set which does not exist.
    pub(crate) missing_rule_set: Option<ConfigError>,
}

/// Compiles the rules of `route`; `config` tells which inbounds there are.
pub(crate) fn compile(
    route: &RouteOptions,
    config: &Config,
    sets: &RuleSets,
) -> Result<Compiled, ConfigError> {
    network(route)?;
    let entries = Vec::with_capacity(route.rules.len());
    let mut compiled = Compiled { entries, ..Compiled::default() };
    for (index, options) in route.rules.iter().enumerate() {
        let entry = entry(options, sets).map_err(|refusal| {
            ConfigError::initialize("router", format!("parse rule[{index}]: {}", refusal.message))
                .in_path(format!("route.rules[{index}]{}", refusal.path))
        })?;
        compiled.references.extend(
            entry
                .action
                .references()
                .map(|(dep, key)| (dep, format!("route.rules[{index}].{key}"))),
        );
        unknown_inbounds(options, config, &format_args!("route.rules[{index}]"));
        compiled.find_process |= entry.needs_process();
        if compiled.missing_rule_set.is_none()
            && let Some(tag) = entry.rule.missing_rule_set()
        {
            let message = format!("initialize rule[{index}]: rule-set not found: {tag}");
            compiled.missing_rule_set =
                Some(ConfigError::start(message).in_path(format!("route.rules[{index}].rule_set")));
        }
        compiled.entries.push(entry);
    }
    let dns_rules = config.dns.iter().flat_map(|dns| &dns.rules);
    compiled.find_process |= route.find_process || dns_rules.into_iter().any(looks_at_process);
    if !route.final_outbound.is_empty() {
        compiled
            .references
            .push((Dep::Outbound(route.final_outbound.as_str().into()), "route.final".to_owned()));
    }
    Ok(compiled)
}

/// Whether a DNS rule looks at the process behind a connection: it is found before the first rule of the router.
fn looks_at_process(rule: &DnsRule) -> bool {
    match rule {
        DnsRule::Default(rule) => {
            let m = &rule.matchers;
            let texts =
                [&m.process_name, &m.process_path, &m.process_path_regex, &m.package_name, &m.user];
            texts.iter().any(|list| !list.is_empty()) || !m.user_id.is_empty()
        }
        DnsRule::Logical(rule) => rule.rules.iter().any(looks_at_process),
    }
}

/// Warns of inbounds that a rule names and that do not exist: accepted by the reference, and never matched.
fn unknown_inbounds(options: &RuleOptions, config: &Config, path: &dyn fmt::Display) {
    match options {
        RuleOptions::Default(rule) => {
            let known = |tag: &String| {
                config
                    .inbounds
                    .iter()
                    .chain(&config.endpoints)
                    .any(|component| component.label() == *tag)
            };
            for tag in rule.matchers.inbound.iter().filter(|tag| !known(tag)) {
                warn!("{path}.inbound: no inbound has the tag {tag:?}, so this never matches");
            }
        }
        RuleOptions::Logical(rule) => {
            for (index, inner) in rule.rules.iter().enumerate() {
                unknown_inbounds(inner, config, &format_args!("{path}.rules[{index}]"));
            }
        }
    }
}

/// What the reference checks of `route` when it makes its network manager.
fn network(route: &RouteOptions) -> Result<(), ConfigError> {
    let fail = |key: &str, message: &str| {
        Err(ConfigError::initialize("network manager", message).in_path(format!("route.{key}")))
    };
    if route.override_android_vpn {
        return fail("override_android_vpn", "`override_android_vpn` is only supported on Android");
    }
    if route.default_network_strategy.is_some() {
        let key = "default_network_strategy";
        if !route.default_interface.is_empty() {
            return fail(key, "`default_network_strategy` is conflict with `default_interface`");
        }
        if !route.auto_detect_interface {
            return fail(key, "`auto_detect_interface` is required by `default_network_strategy`");
        }
    }
    Ok(())
}

fn entry(options: &RuleOptions, sets: &RuleSets) -> Result<Entry, Refusal> {
    if !options.is_valid() {
        return Err(Refusal::whole("missing conditions"));
    }
    let action = action::compile(options.action()).map_err(|refusal| refusal.context("action"))?;
    let rule = rule(options, sets)?;
    let has_rule_sets = !rule.rule_sets().is_empty();
    Ok(Entry { needs_process: !has_rule_sets && rule.needs_process(), has_rule_sets, rule, action })
}

fn rule(options: &RuleOptions, sets: &RuleSets) -> Result<Rule, Refusal> {
    match options {
        RuleOptions::Default(rule) => Rule::matchers(&rule.matchers, sets),
        RuleOptions::Logical(logical) => {
            Rule::logical(&logical.mode, &logical.rules, logical.invert, |inner| {
                action::check_inner(inner.action()).map_err(|refusal| refusal.context("action"))?;
                rule(inner, sets)
            })
        }
    }
}
