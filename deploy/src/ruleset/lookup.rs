//! `rule-set match`: which rules of a set match an address or a domain.

use std::{path::Path, process::ExitCode};

use crosspoint_rules::{
    Compat, Compiled, Facts,
    format::{self, Rule, Rules},
};
use crosspoint_schema::options::{HeadlessMatchers, RuleSetFormat};

use super::{args::Match, decode, describe, read, text};
use crate::Fatal;

/// Prints each rule that matches on standard error, as the reference does; none is no failure. A rule is looked at by
/// itself: what the rules before it have found does not count.
pub(super) fn run(args: &Match) -> Result<ExitCode, Fatal> {
    let bytes = read(&args.path).map_err(|error| format!("read rule-set: {error}"))?;
    let word = match args.format.as_str() {
        "" => match Path::new(&args.path).extension().and_then(|ending| ending.to_str()) {
            Some("json") => "source",
            Some("srs") => "binary",
            _ => "",
        },
        word => word,
    };
    let rules = match RuleSetFormat::from_word(word) {
        Some(RuleSetFormat::Source) => Rules::from(decode(&args.path, &bytes)?.1),
        Some(RuleSetFormat::Binary) => format::srs::read(&bytes).map_err(text)?,
        None => return Err(format!("unknown rule-set format: {word}").into()),
    };
    let mut known = rules.clone();
    known.rules.iter_mut().for_each(without_unknowns);
    let compiled = Compiled::new(known, Compat::default()).map_err(|error| error.to_string())?;
    for index in compiled.matching(&Facts::destination(&args.what)) {
        if let Some(rule) = rules.rules.get(index) {
            eprintln!("match rules.[{index}]: {}", describe::rule(rule));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes away what cannot be known here, the network in use and the type of a DNS query, where other conditions are
/// left. As in the reference, they do not keep a rule from matching.
fn without_unknowns(rule: &mut Rule) {
    let rule = match rule {
        Rule::Logical(logical) => return logical.rules.iter_mut().for_each(without_unknowns),
        Rule::Default(rule) => rule,
    };
    let matchers = HeadlessMatchers {
        query_type: Vec::new().into(),
        network_type: Vec::new().into(),
        network_is_expensive: false,
        network_is_constrained: false,
        wifi_ssid: Vec::new().into(),
        wifi_bssid: Vec::new().into(),
        ..rule.matchers.clone()
    };
    let nothing = HeadlessMatchers { invert: matchers.invert, ..HeadlessMatchers::default() };
    let binary = rule.names.is_some()
        || rule.adguard.is_some()
        || rule.source_ips.is_some()
        || rule.ips.is_some();
    if binary || matchers != nothing {
        rule.matchers = matchers;
    }
}
