//! A rule in words, as `rule-set match` prints it.
//!
//! Source: the `String` methods of the reference's rule items. Lists of names and prefixes are cut after three.

use crosspoint_rules::format::{DefaultRule, Rule};

/// The rule in words.
pub(super) fn rule(rule: &Rule) -> String {
    let (text, invert) = match rule {
        Rule::Default(rule) => (items(rule).join(" "), rule.matchers.invert),
        Rule::Logical(logical) => {
            let operator = if logical.mode == "and" { " && " } else { " || " };
            let parts: Vec<String> = logical.rules.iter().map(self::rule).collect();
            (parts.join(operator), logical.invert)
        }
    };
    if invert { format!("!({text})") } else { text }
}

fn items(rule: &DefaultRule) -> Vec<String> {
    let m = &rule.matchers;
    let mut out = Vec::new();
    all(&mut out, "network", &m.network);
    if rule.names.is_some() {
        out.push("domain/domain_suffix=<binary>".to_owned());
    }
    three(&mut out, "domain", &m.domain, "...");
    three(&mut out, "domain_suffix", &m.domain_suffix, "...");
    three(&mut out, "domain_keyword", &m.domain_keyword, "...");
    three(&mut out, "domain_regex", &m.domain_regex, "");
    three(&mut out, "source_ip_cidr", &m.source_ip_cidr, "...");
    if rule.source_ips.is_some() {
        out.push("source_ip_cidr=<binary>".to_owned());
    }
    three(&mut out, "ip_cidr", &m.ip_cidr, "...");
    if rule.ips.is_some() {
        out.push("ip_cidr=<binary>".to_owned());
    }
    all(&mut out, "source_port", &m.source_port);
    all(&mut out, "source_port_range", &m.source_port_range);
    all(&mut out, "port", &m.port);
    all(&mut out, "port_range", &m.port_range);
    all(&mut out, "process_name", &m.process_name);
    all(&mut out, "process_path", &m.process_path);
    three(&mut out, "process_path_regex", &m.process_path_regex, "");
    all(&mut out, "package_name", &m.package_name);
    if rule.adguard.is_some() {
        out.push("!adguard_domain_rules=<binary>".to_owned());
    }
    out
}

/// One value as it is, several in brackets.
fn all<T: ToString>(out: &mut Vec<String>, name: &str, values: &[T]) {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    three_of(out, name, &texts, texts.len(), "");
}

/// As [`all`], with three of more than three values, and `more` behind them.
fn three(out: &mut Vec<String>, name: &str, values: &[String], more: &str) {
    three_of(out, name, values, 3, more);
}

fn three_of(out: &mut Vec<String>, name: &str, values: &[String], limit: usize, more: &str) {
    let text = match values {
        [] => return,
        [one] => one.clone(),
        several if several.len() <= limit => format!("[{}]", several.join(" ")),
        many => format!(
            "[{}{more}]",
            many.iter().take(limit).map(String::as_str).collect::<Vec<_>>().join(" ")
        ),
    };
    out.push(format!("{name}={text}"));
}
