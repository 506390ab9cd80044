//! Which rule-sets rules refer to.

use std::collections::HashSet;

use crosspoint_schema::{
    Config,
    options::{DnsRule, Rule},
};

/// The tags in `rule_set` of all rules, existing or not.
pub(super) fn of(config: &Config) -> HashSet<&str> {
    let mut tags = HashSet::new();
    if let Some(route) = &config.route {
        route.rules.iter().for_each(|rule| route_rule(rule, &mut tags));
    }
    if let Some(dns) = &config.dns {
        dns.rules.iter().for_each(|rule| dns_rule(rule, &mut tags));
    }
    tags
}

fn route_rule<'a>(rule: &'a Rule, tags: &mut HashSet<&'a str>) {
    match rule {
        Rule::Default(rule) => tags.extend(rule.matchers.rule_set.iter().map(String::as_str)),
        Rule::Logical(rule) => rule.rules.iter().for_each(|rule| route_rule(rule, tags)),
    }
}

fn dns_rule<'a>(rule: &'a DnsRule, tags: &mut HashSet<&'a str>) {
    match rule {
        DnsRule::Default(rule) => tags.extend(rule.matchers.rule_set.iter().map(String::as_str)),
        DnsRule::Logical(rule) => rule.rules.iter().for_each(|rule| dns_rule(rule, tags)),
    }
}
