//! From decoded rules to rules that can be matched, with the reference's errors.

mod action;
mod matchers;

use std::fmt;

use crosspoint_kernel::component::Dep;
use crosspoint_schema::{
    Config, ConfigError,
    options::{LogicalRule, RouteOptions, Rule as RuleOptions},
};
use tracing::warn;

use crate::{action::Action, rule::Rule};

/// What is wrong with a rule: the place within it (`.rules[1].port`) and the cause in the reference's words.
#[derive(Debug)]
pub(crate) struct Refusal {
    path: String,
    message: String,
}

impl Refusal {
    fn new(key: &str, message: impl fmt::Display) -> Self {
        Self { path: format!(".{key}"), message: message.to_string() }
    }

    /// A feature that this build does not have.
    fn not_built(key: &str, what: impl fmt::Display) -> Self {
        Self::new(key, format_args!("{what} is not in this build"))
    }

    /// Puts what was being made in front of the cause.
    fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// A rule with its action.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Rule,
    pub(crate) action: Action,
    /// Whether the rule looks at the process behind a connection.
    pub(crate) needs_process: bool,
}

/// Everything that routing needs from the configuration.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) entries: Vec<Entry>,
    pub(crate) find_process: bool,
    pub(crate) references: Vec<(Dep, String)>,
}

/// Compiles the rules of `route`; `config` tells which inbounds there are.
pub(crate) fn compile(route: &RouteOptions, config: &Config) -> Result<Compiled, ConfigError> {
    network(route)?;
    let entries = Vec::with_capacity(route.rules.len());
    let mut compiled = Compiled { entries, ..Compiled::default() };
    for (index, options) in route.rules.iter().enumerate() {
        let entry = entry(options).map_err(|refusal| {
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
        compiled.find_process |= entry.needs_process;
        compiled.entries.push(entry);
    }
    if !route.rule_set.is_empty() {
        return Err(ConfigError::initialize(
            "router",
            "parse rule-set[0]: rule-sets are not in this build",
        )
        .in_path("route.rule_set[0]"));
    }
    compiled.find_process |= route.find_process;
    if !route.final_outbound.is_empty() {
        compiled
            .references
            .push((Dep::Outbound(route.final_outbound.as_str().into()), "route.final".to_owned()));
    }
    Ok(compiled)
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

fn entry(options: &RuleOptions) -> Result<Entry, Refusal> {
    if !options.is_valid() {
        return Err(Refusal { path: String::new(), message: "missing conditions".to_owned() });
    }
    let action = action::compile(options.action()).map_err(|refusal| refusal.context("action"))?;
    let rule = rule(options)?;
    Ok(Entry { needs_process: rule.needs_process(), rule, action })
}

fn rule(options: &RuleOptions) -> Result<Rule, Refusal> {
    match options {
        RuleOptions::Default(rule) => matchers::compile(&rule.matchers).map(Rule::Default),
        RuleOptions::Logical(rule) => logical(rule),
    }
}

fn logical(options: &LogicalRule) -> Result<Rule, Refusal> {
    let or = match options.mode.as_str() {
        "and" => false,
        "or" => true,
        other => return Err(Refusal::new("mode", format_args!("unknown logical mode: {other}"))),
    };
    let rules = options.rules.iter().enumerate().map(|(index, options)| {
        let inner =
            action::check_inner(options.action()).map_err(|refusal| refusal.context("action"));
        inner.and_then(|()| rule(options)).map_err(|refusal| Refusal {
            path: format!(".rules[{index}]{}", refusal.path),
            message: format!("sub rule[{index}]: {}", refusal.message),
        })
    });
    Ok(Rule::Logical { or, rules: rules.collect::<Result<_, _>>()?, invert: options.invert })
}
