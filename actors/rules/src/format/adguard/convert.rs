//! From the text of a filter to rules.
//!
//! Source: the reference's `common/convertor/adguard`. Lines that ask for more than a name are skipped. Four groups of
//! patterns become one rule: `(important or (normal but no exception)) but no important exception`.

use std::net::IpAddr;

use crosspoint_schema::{decode::Addr, options::HeadlessMatchers};

use super::{
    super::{DefaultRule, FormatError, LogicalRule, Rule, Rules},
    patterns,
};
use crate::names::is_domain_name;

/// The version of the file that a filter becomes; the first one with patterns.
const VERSION: u8 = 2;

/// A filter, line by line.
#[derive(Debug)]
pub struct Filter {
    kept: Vec<Pattern>,
    /// Lines that have no place in a rule-set, in their order.
    pub skipped: Vec<Skipped>,
}

/// A line that has no place in a rule-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its number from 1.
    pub line: usize,
    /// Why, in the reference's words: `ignored unsupported rule with path: `.
    pub reason: String,
    /// The line as written.
    pub text: String,
}

/// A line that counts.
#[derive(Debug, Default)]
struct Pattern {
    text: String,
    /// A name alone, or a line of a hosts file.
    plain: bool,
    exception: bool,
    tree: bool,
    start: bool,
    end: bool,
    regex: bool,
    important: bool,
}

impl Pattern {
    /// The text with its marks.
    fn marked(&self) -> String {
        let front = if self.tree {
            "||"
        } else if self.start {
            "|"
        } else {
            ""
        };
        let end = if self.end { "^" } else { "" };
        format!("{front}{}{end}", self.text)
    }
}

impl Filter {
    /// Reads a filter: lines of AdGuard syntax, of names, or of a hosts file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (mut kept, mut skipped) = (Vec::new(), Vec::new());
        for (index, text) in text.lines().enumerate() {
            if text.is_empty() || text.starts_with(['!', '#']) {
                continue;
            }
            match read_line(text) {
                Ok(pattern) => kept.extend(pattern),
                Err(reason) => {
                    skipped.push(Skipped { line: index + 1, reason, text: text.to_owned() });
                }
            }
        }
        Self { kept, skipped }
    }

    /// How many lines count.
    #[must_use]
    pub fn parsed(&self) -> usize {
        self.kept.len()
    }

    /// Whether it is a list of names and nothing else.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.kept.iter().all(|pattern| pattern.plain)
    }

    /// The filter as one rule, of version 2.
    ///
    /// # Errors
    /// When no line counts.
    pub fn rules(&self) -> Result<Rules, FormatError> {
        let kept = &self.kept;
        if kept.is_empty() {
            let message = "AdGuard rule-set is empty or all rules are unsupported";
            return Err(FormatError::Message(message.to_owned()));
        }
        let rule = if self.is_plain() {
            let domain: Vec<String> = kept.iter().map(|pattern| pattern.text.clone()).collect();
            let matchers =
                HeadlessMatchers { domain: domain.into(), ..HeadlessMatchers::default() };
            Rule::Default(Box::new(DefaultRule { matchers, ..DefaultRule::default() }))
        } else {
            combine(kept)?
        };
        Ok(Rules { version: VERSION, rules: vec![rule] })
    }
}

/// A line as a pattern; `None` for one that asks for nothing; the reason why it is skipped.
fn read_line(line: &str) -> Result<Option<Pattern>, String> {
    if is_domain_name(line) {
        return Ok(Some(Pattern { text: line.to_owned(), plain: true, ..Pattern::default() }));
    }
    if let Some(name) = hosts_line(line) {
        return Ok(name.map(|name| Pattern {
            text: name.to_owned(),
            plain: true,
            start: true,
            end: true,
            ..Pattern::default()
        }));
    }
    let mut pattern = Pattern::default();
    let mut rest = line.strip_suffix('|').unwrap_or(line);
    if let Some((before, modifiers)) = rest.split_once('$').filter(|_| !rest.starts_with('/')) {
        pattern.important = read_modifiers(modifiers)?;
        rest = before;
    }
    if let Some(exempt) = rest.strip_prefix("@@") {
        pattern.exception = true;
        rest = exempt;
    }
    rest = rest.strip_suffix('|').unwrap_or(rest);
    if let Some(tree) = rest.strip_prefix("||") {
        pattern.tree = true;
        rest = tree;
    } else if let Some(start) = rest.strip_prefix('|') {
        pattern.start = true;
        rest = start;
    }
    if let Some(end) = rest.strip_suffix('^') {
        pattern.end = true;
        rest = end;
    }
    if let Some(regex) = rest.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        if is_address_regex(regex) {
            return Err("ignored unsupported rule with IPCIDR regexp: ".to_owned());
        }
        pattern.regex = true;
        rest = regex;
    } else {
        if let Some((_, address)) = rest.split_once("://") {
            pattern.tree = true;
            rest = address;
        }
        check_name(rest)?;
    }
    pattern.text = rest.to_owned();
    Ok(Some(pattern))
}

/// Whether modifiers make a rule important; the reason if one is not supported.
fn read_modifiers(modifiers: &str) -> Result<bool, String> {
    let mut important = false;
    for modifier in modifiers.split(',') {
        let mut parts = modifier.split('=');
        let (name, value, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let known = match (name, value) {
            _ if more.is_some() => false,
            ("important", _) => {
                important = true;
                true
            }
            ("dnsrewrite", Some(value)) => {
                let bare = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
                Addr::parse(bare.unwrap_or(value)).is_ok_and(|addr| addr.ip.is_unspecified())
            }
            _ => false,
        };
        if !known {
            return Err(format!("ignored unsupported rule with modifier: {name}: "));
        }
    }
    Ok(important)
}

/// The reason why a text is no name with stars.
fn check_name(text: &str) -> Result<(), String> {
    let reason = if text.contains('/') {
        "ignored unsupported rule with path: "
    } else if text.contains(['?', '&']) {
        "ignored unsupported rule with query: "
    } else if text.contains(['[', ']', '(', ')', '!', '#']) {
        "ignored unsupported cosmetic filter: "
    } else if text.contains('~') {
        "ignored unsupported rule modifier: "
    } else if text.is_empty() {
        "ignored unsupported rule with empty domain"
    } else {
        let whole = if text.starts_with(['.', '-']) { format!("r{text}") } else { text.to_owned() };
        let whole = whole.replace('*', "x");
        if is_domain_name(&whole) {
            return Ok(());
        }
        if is_address_prefix(text) {
            "ignored unsupported rule with IPCIDR: "
        } else if has_port(&whole) {
            "ignored unsupported rule with port: "
        } else {
            "ignored unsupported rule with invalid domain: "
        }
    };
    Err(reason.to_owned())
}

/// The name in a line `0.0.0.0 name`; `Some(None)` for one with another address, which blocks nothing.
fn hosts_line(line: &str) -> Option<Option<&str>> {
    let (address, name) = line.split_once(' ')?;
    let unspecified = Addr::parse(address).ok()?.ip.is_unspecified();
    match (unspecified, is_domain_name(name)) {
        (false, _) => Some(None),
        (true, true) => Some(Some(name)),
        (true, false) => None,
    }
}

/// A decimal number that fits in a byte.
fn is_byte(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u8>().is_ok()
}

/// Whether an expression begins with a number, as those for addresses do.
fn is_address_regex(regex: &str) -> bool {
    let rest = regex
        .strip_prefix(r"(http?:\/\/)")
        .or_else(|| regex.strip_prefix(r"(https?:\/\/)"))
        .or_else(|| regex.strip_prefix('^'))
        .unwrap_or(regex);
    let before = |mark: &str| rest.split_once(mark).map_or(rest, |(before, _)| before);
    is_byte(before(r"\.")) || is_byte(before("."))
}

/// `1.2.3.4`, or the front of one with a dot at the end.
fn is_address_prefix(text: &str) -> bool {
    let open = text.strip_suffix('.');
    let parts: Vec<&str> = open.unwrap_or(text).split('.').collect();
    let enough = if open.is_some() { parts.len() <= 4 } else { parts.len() == 4 };
    enough && parts.into_iter().all(is_byte)
}

/// `host:port` with a port that is not zero.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.contains(':')
            && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn combine(kept: &[Pattern]) -> Result<Rule, FormatError> {
    let group = |important: bool, exception: bool| -> Result<Option<DefaultRule>, FormatError> {
        let of = |regex: bool| {
            let chosen = kept.iter().filter(move |pattern| {
                (pattern.important, pattern.exception, pattern.regex)
                    == (important, exception, regex)
            });
            chosen.map(Pattern::marked).collect::<Vec<String>>()
        };
        let (names, regexes) = (of(false), of(true));
        if names.is_empty() && regexes.is_empty() {
            return Ok(None);
        }
        let matchers = HeadlessMatchers {
            domain_regex: regexes.into(),
            invert: exception,
            ..HeadlessMatchers::default()
        };
        Ok(Some(DefaultRule {
            matchers,
            adguard: patterns::compile(&names)?,
            ..DefaultRule::default()
        }))
    };
    let first = |rule: DefaultRule, mode: &str, second: Rule| {
        Rule::Logical(LogicalRule {
            mode: mode.to_owned(),
            rules: vec![Rule::Default(Box::new(rule)), second],
            invert: false,
        })
    };
    let mut rule = Rule::Default(Box::new(group(false, false)?.unwrap_or_default()));
    for (important, exception, mode) in
        [(false, true, "and"), (true, false, "or"), (true, true, "and")]
    {
        if let Some(more) = group(important, exception)? {
            rule = first(more, mode, rule);
        }
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_rule(text: &str) -> Rule {
        let mut rules = Filter::parse(text).rules().unwrap().rules;
        assert_eq!(rules.len(), 1);
        rules.pop().unwrap()
    }

    fn logical(rule: Rule, mode: &str) -> (DefaultRule, Rule) {
        let Rule::Logical(mut rule) = rule else { panic!("{rule:?}") };
        assert_eq!((rule.mode.as_str(), rule.rules.len()), (mode, 2));
        let second = rule.rules.pop().unwrap();
        match rule.rules.pop() {
            Some(Rule::Default(first)) => (*first, second),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_alone_are_a_plain_rule() {
        let text = "example.com\r\n# no\n\n! no\n0.0.0.0 www.example.org\n127.0.0.1 localhost\n";
        let Rule::Default(rule) = only_rule(text) else { panic!() };
        assert_eq!(rule.matchers.domain.0, ["example.com", "www.example.org"]);
        let filter = Filter::parse(text);
        assert_eq!((filter.parsed(), filter.skipped.len()), (2, 0));
    }

    #[test]
    fn groups() {
        let text = "||a^$important\n@@|b^$important\n||c^\n@@|d^\n/^ads\\d+/\n@@/x$y/\n";
        let (exempt, rest) = logical(only_rule(text), "and");
        assert!(exempt.matchers.invert && exempt.adguard.is_some());
        let (important, rest) = logical(rest, "or");
        assert!(!important.matchers.invert);
        let (exception, rest) = logical(rest, "and");
        assert!(exception.matchers.invert);
        let Rule::Default(normal) = rest else { panic!() };
        assert_eq!(normal.matchers.domain_regex.0, [r"^ads\d+"]);
    }

    #[test]
    fn what_is_skipped() {
        for (line, reason) in [
            ("||a^$app=x", "modifier: app"),
            ("||a^$dnsrewrite=1.1.1.1", "modifier: dnsrewrite"),
            ("||a/b^", "path"),
            ("||a?b", "query"),
            ("a##b", "cosmetic"),
            ("~a", "rule modifier"),
            ("||^", "empty"),
            ("||1.2.3.4^", "IPCIDR: "),
            ("1.2.3.", "IPCIDR: "),
            ("/^1\\.2/", "IPCIDR regexp"),
            ("||a:80^", "port"),
            ("0.0.0.0 a # b", "cosmetic"),
            ("a b", "invalid domain"),
        ] {
            let filter = Filter::parse(&format!("keep.example\n{line}"));
            let [skipped] = filter.skipped.as_slice() else { panic!("{line}: {filter:?}") };
            assert!(skipped.reason.contains(reason) && skipped.line == 2, "{skipped:?}");
        }
        assert!(Filter::parse("# nothing").rules().is_err());
        assert_eq!(Filter::parse("||a^$dnsrewrite=0.0.0.0\n").parsed(), 1);
        assert_eq!(Filter::parse("https://a^\n").parsed(), 1);
    }
}
