//! Rules for DNS queries.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Field, Listable, Map, ObjectCursor, Options};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::options::rule::{
    NULL_RULE, RuleType, describe_logical, encode_logical, finish_action, rule_type,
};
use crate::options::{DnsRuleAction, InterfaceType, QueryType};
use crate::{ConfigError, options};

options! {
    /// What a DNS rule looks at.
    pub struct DnsRuleMatchers ("option.RawDefaultDNSRule") {
        /// Tags of inbounds.
        pub inbound: Listable<String> = "inbound",
        /// IP version, 4 (A) or 6 (AAAA).
        pub ip_version: i64 = "ip_version",
        /// Types of the query, by name or number.
        pub query_type: Listable<QueryType> = "query_type",
        /// `tcp` or `udp`.
        pub network: Listable<String> = "network",
        /// Names of authenticated users.
        pub auth_user: Listable<String> = "auth_user",
        /// Sniffed protocols.
        pub protocol: Listable<String> = "protocol",
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
        /// Prefixes that an address of the answer must have.
        pub ip_cidr: Listable<String> = "ip_cidr",
        /// The answer has an address that is not public.
        pub ip_is_private: bool = "ip_is_private",
        /// The answer has any address.
        pub ip_accept_any: bool = "ip_accept_any",
        /// Prefixes of the source address.
        pub source_ip_cidr: Listable<String> = "source_ip_cidr",
        /// The source address is not public.
        pub source_ip_is_private: bool = "source_ip_is_private",
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
        /// Outbounds whose server names are resolved; `any` for all (deprecated: `domain_resolver`).
        pub outbound: Listable<String> = "outbound",
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
        /// Prefixes of rule-sets match an answer without addresses.
        pub rule_set_ip_cidr_accept_empty: bool = "rule_set_ip_cidr_accept_empty",
        /// Match when the rest does not.
        pub invert: bool = "invert",
        /// Old name of `rule_set_ip_cidr_match_source` (deprecated).
        pub rule_set_ipcidr_match_source: bool = "rule_set_ipcidr_match_source",
    }
}

/// A rule for DNS queries.
#[derive(Clone, Debug, PartialEq)]
pub enum DnsRule {
    /// Matchers and an action.
    Default(Box<DefaultDnsRule>),
    /// Rules combined, and an action.
    Logical(Box<LogicalDnsRule>),
}

/// Matchers and an action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultDnsRule {
    /// What must match.
    pub matchers: DnsRuleMatchers,
    /// What happens then.
    pub action: DnsRuleAction,
}

/// Rules combined, and an action. Actions of the inner rules are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogicalDnsRule {
    /// `and` or `or`.
    pub mode: String,
    /// The inner rules.
    pub rules: Vec<DnsRule>,
    /// Match when the rest does not.
    pub invert: bool,
    /// What happens on a match.
    pub action: DnsRuleAction,
}

impl DnsRule {
    /// The action.
    #[must_use]
    pub fn action(&self) -> &DnsRuleAction {
        match self {
            Self::Default(rule) => &rule.action,
            Self::Logical(rule) => &rule.action,
        }
    }

    /// The action, to change it.
    pub fn action_mut(&mut self) -> &mut DnsRuleAction {
        match self {
            Self::Default(rule) => &mut rule.action,
            Self::Logical(rule) => &mut rule.action,
        }
    }

    /// Whether the rule or one in it has the item `outbound`, which the reference calls deprecated when it makes its
    /// rules ([`notice::OUTBOUND_DNS_RULE_ITEM`](crate::notice::OUTBOUND_DNS_RULE_ITEM)).
    #[must_use]
    pub fn names_outbound(&self) -> bool {
        match self {
            Self::Default(rule) => !rule.matchers.outbound.is_empty(),
            Self::Logical(rule) => rule.rules.iter().any(Self::names_outbound),
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

impl Field for DnsRule {
    fn absent() -> Self {
        Self::Default(Box::default())
    }

    fn decode_or_null(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if cursor.node().is_null() { Err(cursor.error(NULL_RULE)) } else { Self::decode(cursor) }
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(&cursor.pruned(), "option._DNSRule")?;
        match rule_type(&mut object)? {
            RuleType::Default => {
                let matchers = DnsRuleMatchers::decode_fields(&mut object);
                object.end_pass()?;
                let action = DnsRuleAction::decode_rest(object)?;
                Ok(Self::Default(Box::new(DefaultDnsRule { matchers, action })))
            }
            RuleType::Logical => {
                let mode = object.field("mode");
                let rules = object.field("rules");
                let invert = object.field("invert");
                object.end_pass()?;
                let action = DnsRuleAction::decode_rest(object)?;
                Ok(Self::Logical(Box::new(LogicalDnsRule { mode, rules, invert, action })))
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
        "option.DNSRule".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        builder.define_with("DnsRule", |builder| {
            let mut variants = Vec::new();
            for (word, describe) in DnsRuleAction::variants() {
                let mut object = ObjectSchema::new(builder);
                object.raw("type", json!({"enum": ["", "default"]}), &[]);
                DnsRuleMatchers::describe(&mut object);
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
