//! Rule-set files: from bytes to rules and back. No input, no output, no clock.
//!
//! | module | format |
//! |---|---|
//! | [`source`] | JSON, versions 1 to 3 |
//! | [`srs`] | the binary form, versions 1 to 3 |
//! | [`geosite`] | the container of domain lists that came before rule-sets |
//! | [`geoip`] | MaxMind databases of type `sing-geoip` |
//! | [`adguard`] | DNS filters of AdGuard, which become rules |
//!
//! Files come from the network: lengths make no memory before what they count is there, what a file unfolds to is
//! limited, and errors tell the place.

pub mod adguard;
mod bytes;
mod error;
pub mod geoip;
pub mod geosite;
pub(crate) mod names;
mod ranges;
pub mod source;
pub mod srs;
mod trie;

pub use error::FormatError;
pub use ranges::IpRanges;
pub use trie::Trie;

use crosspoint_schema::options::{
    HeadlessMatchers, HeadlessRule, LogicalHeadlessRule, PlainRuleSet, RuleSetFile, RuleSetFormat,
};

/// The newest version of source and binary files.
pub const CURRENT_VERSION: u8 = 3;

/// The rules of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Version of the format, 1 to 3.
    pub version: u8,
    /// A set matches if one of them does.
    pub rules: Vec<Rule>,
}

/// One rule of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Matchers.
    Default(Box<DefaultRule>),
    /// Rules combined.
    Logical(LogicalRule),
}

/// Matchers of a file. Binary files hold names and addresses in forms of their own, which are kept as they are: then
/// the lists in `matchers` are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultRule {
    /// What is the same in every format.
    pub matchers: HeadlessMatchers,
    /// `domain` and `domain_suffix` of a binary file.
    pub names: Option<Trie>,
    /// Patterns of an AdGuard filter, see [`adguard`].
    pub adguard: Option<Trie>,
    /// `source_ip_cidr` of a binary file.
    pub source_ips: Option<IpRanges>,
    /// `ip_cidr` of a binary file.
    pub ips: Option<IpRanges>,
}

/// Rules of a file combined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogicalRule {
    /// `and` or `or`; anything else is refused when the rule is made.
    pub mode: String,
    /// The inner rules.
    pub rules: Vec<Rule>,
    /// Match when the rest does not.
    pub invert: bool,
}

/// Reads a file of either form.
///
/// # Errors
/// Bytes that are not of that form.
pub fn read(format: RuleSetFormat, bytes: &[u8]) -> Result<Rules, FormatError> {
    match format {
        RuleSetFormat::Source => source::read(bytes),
        RuleSetFormat::Binary => srs::read(bytes),
    }
}

impl Rules {
    /// Whether a rule holds patterns of an AdGuard filter, which no source file can.
    #[must_use]
    pub fn has_adguard(&self) -> bool {
        any(&self.rules, &|rule| rule.adguard.is_some())
    }

    /// The rules as a source file holds them: names and addresses as texts.
    ///
    /// # Errors
    /// Patterns of an AdGuard filter, or more than 512 MiB of names.
    pub fn into_source(self) -> Result<RuleSetFile, FormatError> {
        if self.has_adguard() {
            let message = "unable to decompile binary AdGuard rules to rule-set.";
            return Err(FormatError::Message(message.to_owned()));
        }
        let mut budget = 512 << 20;
        let rules = self.rules.into_iter().map(|rule| rule.into_source(&mut budget));
        Ok(RuleSetFile {
            version: self.version,
            rules: PlainRuleSet { rules: rules.collect::<Result<_, _>>()? },
        })
    }
}

fn any(rules: &[Rule], test: &dyn Fn(&DefaultRule) -> bool) -> bool {
    rules.iter().any(|rule| match rule {
        Rule::Default(rule) => test(rule),
        Rule::Logical(rule) => any(&rule.rules, test),
    })
}

impl From<RuleSetFile> for Rules {
    fn from(file: RuleSetFile) -> Self {
        let rules = file.rules.rules.into_iter().map(Rule::from).collect();
        Self { version: file.version, rules }
    }
}

impl From<HeadlessRule> for Rule {
    fn from(rule: HeadlessRule) -> Self {
        match rule {
            HeadlessRule::Default(matchers) => Self::Default(Box::new(DefaultRule {
                matchers: *matchers,
                ..DefaultRule::default()
            })),
            HeadlessRule::Logical(rule) => Self::Logical(LogicalRule {
                mode: rule.mode,
                rules: rule.rules.into_iter().map(Self::from).collect(),
                invert: rule.invert,
            }),
        }
    }
}

impl Rule {
    fn into_source(self, budget: &mut usize) -> Result<HeadlessRule, FormatError> {
        match self {
            Self::Default(rule) => {
                rule.into_matchers(budget).map(|rule| HeadlessRule::Default(Box::new(rule)))
            }
            Self::Logical(rule) => {
                let rules = rule.rules.into_iter().map(|rule| rule.into_source(budget));
                Ok(HeadlessRule::Logical(Box::new(LogicalHeadlessRule {
                    mode: rule.mode,
                    rules: rules.collect::<Result<_, _>>()?,
                    invert: rule.invert,
                })))
            }
        }
    }
}

impl DefaultRule {
    fn into_matchers(self, budget: &mut usize) -> Result<HeadlessMatchers, FormatError> {
        let mut matchers = self.matchers;
        if let Some(trie) = &self.names {
            let (domain, suffix) = names::decompile(trie, budget)?;
            matchers.domain.0 = domain;
            matchers.domain_suffix.0 = suffix;
        }
        if let Some(ranges) = &self.source_ips {
            matchers.source_ip_cidr.0 =
                ranges.prefixes().map(|prefix| prefix.to_string()).collect();
        }
        if let Some(ranges) = &self.ips {
            matchers.ip_cidr.0 = ranges.prefixes().map(|prefix| prefix.to_string()).collect();
        }
        Ok(matchers)
    }
}
