//! `rule-set match`: which rules of a set match an address or a domain.

use std::{path::Path, process::ExitCode};

use crosspoint_rules::{
    Compat, Compiled, Facts,
    format::{self, DefaultRule, Rule, Rules},
};
use crosspoint_schema::options::{HeadlessMatchers, RuleSetFormat};

use super::{args::Match, decode, describe, read, text};
use crate::Fatal;

/// Matches whatever is looked for: a port that is not known is 0.
const EVERY_PORT: &str = "0:65535";

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

/// Takes away what cannot be known here, the network in use and the type of a DNS query. As in the reference, it does
/// not keep a rule from matching, and a rule that has nothing else matches everything.
fn without_unknowns(rule: &mut Rule) {
    let rule = match rule {
        Rule::Logical(logical) => return logical.rules.iter_mut().for_each(without_unknowns),
        Rule::Default(rule) => rule,
    };
    if **rule == DefaultRule::default() {
        // Refused later, as a rule without conditions.
        return;
    }
    let unknown = HeadlessMatchers {
        query_type: std::mem::take(&mut rule.matchers.query_type),
        network_type: std::mem::take(&mut rule.matchers.network_type),
        network_is_expensive: std::mem::take(&mut rule.matchers.network_is_expensive),
        network_is_constrained: std::mem::take(&mut rule.matchers.network_is_constrained),
        wifi_ssid: std::mem::take(&mut rule.matchers.wifi_ssid),
        wifi_bssid: std::mem::take(&mut rule.matchers.wifi_bssid),
        ..HeadlessMatchers::default()
    };
    let invert = std::mem::take(&mut rule.matchers.invert);
    if unknown != HeadlessMatchers::default() && **rule == DefaultRule::default() {
        rule.matchers.port_range = vec![EVERY_PORT.to_owned()].into();
    } else {
        rule.matchers.invert = invert;
    }
}
