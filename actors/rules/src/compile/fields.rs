//! The members of the three kinds of rules as one.

use crosspoint_schema::options::{
    DnsRuleMatchers, HeadlessMatchers, InterfaceType, QueryType, RuleMatchers,
};

use crate::item::{AdGuardSet, CidrSet, DomainSet};

/// What matchers may hold: rules of the router, DNS rules and rules of a set have most of it in common.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) inbound: &'a [String],
    pub(crate) ip_version: i64,
    pub(crate) query_type: &'a [QueryType],
    pub(crate) network: &'a [String],
    pub(crate) auth_user: &'a [String],
    pub(crate) protocol: &'a [String],
    pub(crate) client: &'a [String],
    pub(crate) domain: &'a [String],
    pub(crate) domain_suffix: &'a [String],
    pub(crate) domain_keyword: &'a [String],
    pub(crate) domain_regex: &'a [String],
    pub(crate) geosite: &'a [String],
    pub(crate) source_geoip: &'a [String],
    pub(crate) geoip: &'a [String],
    pub(crate) source_ip_cidr: &'a [String],
    pub(crate) source_ip_is_private: bool,
    pub(crate) ip_cidr: &'a [String],
    /// What `ip_cidr` is called in errors.
    pub(crate) ip_cidr_name: &'static str,
    pub(crate) ip_is_private: bool,
    pub(crate) ip_accept_any: bool,
    pub(crate) source_port: &'a [u16],
    pub(crate) source_port_range: &'a [String],
    pub(crate) port: &'a [u16],
    pub(crate) port_range: &'a [String],
    pub(crate) process_name: &'a [String],
    pub(crate) process_path: &'a [String],
    pub(crate) process_path_regex: &'a [String],
    pub(crate) package_name: &'a [String],
    pub(crate) user: &'a [String],
    pub(crate) user_id: &'a [i32],
    pub(crate) outbound: &'a [String],
    pub(crate) clash_mode: &'a str,
    pub(crate) network_type: &'a [InterfaceType],
    pub(crate) network_is_expensive: bool,
    pub(crate) network_is_constrained: bool,
    pub(crate) wifi_ssid: &'a [String],
    pub(crate) wifi_bssid: &'a [String],
    pub(crate) rule_set: &'a [String],
    pub(crate) match_source: bool,
    /// The old name of `match_source` was used, with sets.
    pub(crate) old_match_source: bool,
    pub(crate) accept_empty: bool,
    pub(crate) invert: bool,
    /// What a rule of a binary set has instead of the lists of the same name.
    pub(crate) binary: Binary,
}

/// Matchers of a binary rule-set. One counts only where the list of the same name is empty.
#[derive(Debug, Default)]
pub(crate) struct Binary {
    pub(crate) domains: Option<DomainSet>,
    pub(crate) adguard: Option<AdGuardSet>,
    pub(crate) source_cidrs: Option<CidrSet>,
    pub(crate) cidrs: Option<CidrSet>,
}

/// Copies members of the same name and type.
macro_rules! fields {
    ($m:expr; $($list:ident)*; $($value:ident)*; $($extra:tt)*) => {
        Self { $($list: &$m.$list,)* $($value: $m.$value,)* $($extra)* }
    };
}

impl<'a> From<&'a RuleMatchers> for Fields<'a> {
    fn from(m: &'a RuleMatchers) -> Self {
        fields!(m;
            inbound network auth_user protocol client domain domain_suffix domain_keyword domain_regex geosite source_geoip
            geoip source_ip_cidr ip_cidr source_port source_port_range port port_range process_name process_path
            process_path_regex package_name user user_id clash_mode network_type wifi_ssid wifi_bssid rule_set;
            ip_version source_ip_is_private ip_is_private network_is_expensive network_is_constrained invert;
            ip_cidr_name: "ipcidr",
            match_source: m.rule_set_ip_cidr_match_source || m.rule_set_ipcidr_match_source,
            old_match_source: m.rule_set_ipcidr_match_source && !m.rule_set_ip_cidr_match_source,
            ..Self::default()
        )
    }
}

impl<'a> From<&'a DnsRuleMatchers> for Fields<'a> {
    fn from(m: &'a DnsRuleMatchers) -> Self {
        fields!(m;
            inbound query_type network auth_user protocol domain domain_suffix domain_keyword domain_regex geosite
            source_geoip geoip source_ip_cidr ip_cidr source_port source_port_range port port_range process_name
            process_path process_path_regex package_name user user_id outbound clash_mode network_type wifi_ssid wifi_bssid
            rule_set;
            ip_version source_ip_is_private ip_is_private ip_accept_any network_is_expensive network_is_constrained invert;
            ip_cidr_name: "ip_cidr",
            match_source: m.rule_set_ip_cidr_match_source || m.rule_set_ipcidr_match_source,
            old_match_source: m.rule_set_ipcidr_match_source && !m.rule_set_ip_cidr_match_source,
            accept_empty: m.rule_set_ip_cidr_accept_empty,
            ..Self::default()
        )
    }
}

impl<'a> From<&'a HeadlessMatchers> for Fields<'a> {
    fn from(m: &'a HeadlessMatchers) -> Self {
        fields!(m;
            query_type network domain domain_suffix domain_keyword domain_regex source_ip_cidr ip_cidr source_port
            source_port_range port port_range process_name process_path process_path_regex package_name network_type
            wifi_ssid wifi_bssid;
            network_is_expensive network_is_constrained invert;
            ip_cidr_name: "ipcidr",
            ..Self::default()
        )
    }
}
