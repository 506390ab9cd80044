//! Rules of the router.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Field, Listable, Map, ObjectCursor, Options};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::options::{InterfaceType, RuleAction};
use crate::{ConfigError, options};

options! {
    /// What a rule looks at. All groups that are set must match; within a list one entry is enough.
    pub struct RuleMatchers ("option.RawDefaultRule") {
        /// Tags of inbounds.
        pub inbound: Listable<String> = "inbound",
        /// IP version, 4 or 6.
        pub ip_version: i64 = "ip_version",
        /// `tcp` or `udp`.
        pub network: Listable<String> = "network",
        /// Names of authenticated users.
        pub auth_user: Listable<String> = "auth_user",
        /// Sniffed protocols.
        pub protocol: Listable<String> = "protocol",
        /// Sniffed client types.
        pub client: Listable<String> = "client",
        /// Whole domains.
        pub domain: Listable<String> = "domain",
        /// Ends of domains; with a leading dot, sub-domains only.
        pub domain_suffix: Listable<String> = "domain_suffix",
        /// Parts of domains.
        pub domain_keyword: Listable<String> = "domain_keyword",
        /// Regular expressions for domains.
        pub domain_regex: Listable<String> = "domain_regex",
        /// Removed in 1.12.0: refused.
        pub geosite: Listable<String> = "geosite",
        /// Removed in 1.12.0: refused.
        pub source_geoip: Listable<String> = "source_geoip",
        /// Removed in 1.12.0: refused.
        pub geoip: Listable<String> = "geoip",
        /// Prefixes of the source address.
        pub source_ip_cidr: Listable<String> = "source_ip_cidr",
        /// The source address is not public.
        pub source_ip_is_private: bool = "source_ip_is_private",
        /// Prefixes of the destination address.
        pub ip_cidr: Listable<String> = "ip_cidr",
        /// The destination address is not public.
        pub ip_is_private: bool = "ip_is_private",
        /// Source ports.
        pub source_port: Listable<u16> = "source_port",
        /// Ranges of source ports: `a:b`, `:b` or `a:`.
        pub source_port_range: Listable<String> = "source_port_range",
        /// Destination ports.
        pub port: Listable<u16> = "port",
        /// Ranges of destination ports: `a:b`, `:b` or `a:`.
        pub port_range: Listable<String> = "port_range",
        /// Names of local programs.
        pub process_name: Listable<String> = "process_name",
        /// Paths of local programs.
        pub process_path: Listable<String> = "process_path",
        /// Regular expressions for paths of local programs.
        pub process_path_regex: Listable<String> = "process_path_regex",
        /// Android packages.
        pub package_name: Listable<String> = "package_name",
        /// Names of local users.
        pub user: Listable<String> = "user",
        /// Identifiers of local users.
        pub user_id: Listable<i32> = "user_id",
        /// Mode of the Clash API, in any case of letters.
        pub clash_mode: String = "clash_mode",
        /// Kinds of the network in use.
        pub network_type: Listable<InterfaceType> = "network_type",
        /// The network in use is metered.
        pub network_is_expensive: bool = "network_is_expensive",
        /// The network in use is in low data mode.
        pub network_is_constrained: bool = "network_is_constrained",
        /// Names of the Wi-Fi network.
        pub wifi_ssid: Listable<String> = "wifi_ssid",
        /// Addresses of the Wi-Fi access point.
        pub wifi_bssid: Listable<String> = "wifi_bssid",
        /// Tags of rule-sets.
        pub rule_set: Listable<String> = "rule_set",
        /// Match prefixes of rule-sets against the source address.
        pub rule_set_ip_cidr_match_source: bool = "rule_set_ip_cidr_match_source",
        /// Match when the rest does not.
        pub invert: bool = "invert",
        /// Old name of `rule_set_ip_cidr_match_source` (deprecated).
        pub rule_set_ipcidr_match_source: bool = "rule_set_ipcidr_match_source",
    }
}

/// How the rules inside a logical rule combine, as written; the reference checks it when the router is made.
pub const LOGICAL_MODES: [&str; 2] = ["and", "or"];

/// A rule of the router.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Matchers and an action.
    Default(Box<DefaultRule>),
    /// Rules combined, and an action.
    Logical(Box<LogicalRule>),
}

/// Matchers and an action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultRule {
    /// What must match.
    pub matchers: RuleMatchers,
    /// What happens then.
    pub action: RuleAction,
}

/// Rules combined, and an action. Actions of the inner rules are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogicalRule {
    /// `and` or `or`.
    pub mode: String,
    /// The inner rules.
    pub rules: Vec<Rule>,
    /// Match when the rest does not.
    pub invert: bool,
    /// What happens on a match.
    pub action: RuleAction,
}

impl Default for Rule {
    fn default() -> Self {
        Self::Default(Box::default())
    }
}

impl Rule {
    /// The action.
    #[must_use]
    pub fn action(&self) -> &RuleAction {
        match self {
            Self::Default(rule) => &rule.action,
            Self::Logical(rule) => &rule.action,
        }
    }

    /// Whether the rule has conditions in the reference's sense: a logical rule needs inner rules, any other has them.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Default(_) => true,
            Self::Logical(rule) => !rule.rules.is_empty() && rule.rules.iter().all(Self::is_valid),
        }
    }
}

/// Why `null` is no rule.
pub(crate) const NULL_RULE: &str = "expected json object start, but starts with nil";

/// The word in `type` of a rule.
pub(crate) enum RuleType {
    Default,
    Logical,
}

/// Takes `type` off a rule.
pub(crate) fn rule_type(object: &mut ObjectCursor<'_>) -> Result<RuleType, ConfigError> {
    object.splitting(true);
    let word: String = object.field("type");
    object.end_pass()?;
    match word.as_str() {
        "" | "default" => Ok(RuleType::Default),
        "logical" => Ok(RuleType::Logical),
        other => Err(object.cursor().error(format!("unknown rule type: {other}"))),
    }
}

impl Field for Rule {
    fn absent() -> Self {
        Self::default()
    }

    fn decode_or_null(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if cursor.node().is_null() { Err(cursor.error(NULL_RULE)) } else { Self::decode(cursor) }
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(&cursor.pruned(), "option._Rule")?;
        match rule_type(&mut object)? {
            RuleType::Default => {
                let matchers = RuleMatchers::decode_fields(&mut object);
                object.end_pass()?;
                let action = RuleAction::decode_rest(object)?;
                Ok(Self::Default(Box::new(DefaultRule { matchers, action })))
            }
            RuleType::Logical => {
                let mode = object.field("mode");
                let rules = object.field("rules");
                let invert = object.field("invert");
                object.end_pass()?;
                let action = RuleAction::decode_rest(object)?;
                Ok(Self::Logical(Box::new(LogicalRule { mode, rules, invert, action })))
            }
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        match self {
            Self::Default(rule) => {
                rule.matchers.encode_fields(&mut out);
                rule.action.encode_into(&mut out);
            }
            Self::Logical(rule) => {
                encode_logical(&mut out, &rule.mode, &rule.rules, rule.invert);
                rule.action.encode_into(&mut out);
            }
        }
        out.into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.Rule".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        builder.define_with("Rule", |builder| {
            let mut variants = Vec::new();
            for (word, describe) in RuleAction::variants() {
                let mut object = ObjectSchema::new(builder);
                object.raw("type", json!({"enum": ["", "default"]}), &[]);
                RuleMatchers::describe(&mut object);
                variants.push(finish_action(object, word, describe));
                let mut object = ObjectSchema::new(builder);
                object.constant("type", "logical");
                describe_logical::<Self>(&mut object);
                variants.push(finish_action(object, word, describe));
            }
            json!({"anyOf": variants})
        })
    }
}

/// Writes what logical rules of all sorts have in common.
pub(crate) fn encode_logical<T: Field>(out: &mut Map, mode: &str, rules: &Vec<T>, invert: bool) {
    out.insert("type".to_owned(), "logical".into());
    out.insert("mode".to_owned(), mode.into());
    if let Some(rules) = rules.encode() {
        out.insert("rules".to_owned(), rules);
    }
    if invert {
        out.insert("invert".to_owned(), true.into());
    }
}

/// Describes what logical rules of all sorts have in common.
pub(crate) fn describe_logical<T: Field>(object: &mut ObjectSchema<'_>) {
    object.raw("mode", json!({"enum": LOGICAL_MODES}), &["How the inner rules combine."]);
    object.property::<Vec<T>>("rules", &["The inner rules."]);
    object.property::<bool>("invert", &["Match when the rest does not."]);
}

/// The word of an action, and what describes its members and tells whether others pass.
pub(crate) type Variant = (&'static str, fn(&mut ObjectSchema<'_>) -> bool);

/// Ends the schema of a rule with the members of one action.
pub(crate) fn finish_action(
    mut object: ObjectSchema<'_>,
    word: &str,
    describe: fn(&mut ObjectSchema<'_>) -> bool,
) -> serde_json::Value {
    if word == "route" {
        object.raw("action", json!({"enum": ["", "route"]}), &[]);
    } else {
        object.constant("action", word);
    }
    let loose = describe(&mut object);
    object.build(loose)
}
