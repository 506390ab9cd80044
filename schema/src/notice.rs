//! Deprecations as data. Decoding and conversion push, the command line prints and decides.

use std::sync::{Arc, Mutex, PoisonError};

/// A deprecated feature of the reference.
#[derive(Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// The reference's name of the note.
    pub name: &'static str,
    /// What is deprecated, as it stands in the message.
    pub description: &'static str,
    /// Deprecated since this version.
    pub since: &'static str,
    /// Announced to go with this version.
    pub removal: &'static str,
    /// The environment variable is `ENABLE_DEPRECATED_` plus this.
    pub env: &'static str,
    /// Where the reference's documentation tells how to migrate.
    pub link: &'static str,
    /// What the reference does when the feature is used.
    pub severity: Severity,
}

/// What the use of a deprecated feature leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A warning.
    Warn,
    /// An error, unless the environment variable allows it.
    Refuse,
}

macro_rules! deprecations {
    ($($(#[doc = $doc:literal])* $id:ident = $name:literal, $description:literal, $since:literal, $removal:literal, $env:literal,
       $link:literal, $severity:ident;)*) => {
        $($(#[doc = $doc])* pub static $id: Deprecation = Deprecation {
            name: $name, description: $description, since: $since, removal: $removal, env: $env,
            link: concat!("https://sing-box.sagernet.org/", $link), severity: Severity::$severity,
        };)*
        /// All deprecations that the reference knows.
        pub static ALL: &[&Deprecation] = &[$(&$id),*];
    };
}

deprecations! {
    /// `rule_set_ipcidr_match_source`, at which the reference panics; we warn.
    BAD_MATCH_SOURCE = "bad-match-source", "legacy match source rule item", "1.10.0", "1.11.0", "BAD_MATCH_SOURCE",
        "deprecated/#match-source-rule-items-are-renamed", Warn;
    /// `geoip` rule items, refused by the router.
    GEOIP = "geoip", "geoip database", "1.8.0", "1.12.0", "GEOIP", "migration/#migrate-geoip-to-rule-sets", Refuse;
    /// `geosite` rule items, refused by the router.
    GEOSITE = "geosite", "geosite database", "1.8.0", "1.12.0", "GEOSITE", "migration/#migrate-geosite-to-rule-sets", Refuse;
    /// `inet4_address` and its like on TUN.
    TUN_ADDRESS_X = "tun-address-x", "legacy tun address fields", "1.10.0", "1.12.0", "TUN_ADDRESS_X",
        "migration/#tun-address-fields-are-merged", Refuse;
    /// The `dns` outbound.
    SPECIAL_OUTBOUNDS = "special-outbounds", "legacy special outbounds", "1.11.0", "1.13.0", "SPECIAL_OUTBOUNDS",
        "migration/#migrate-legacy-special-outbounds-to-rule-actions", Refuse;
    /// `sniff` and its like on inbounds; never reported for inbounds by the reference.
    INBOUND_OPTIONS = "inbound-options", "legacy inbound fields", "1.11.0", "1.13.0", "INBOUND_OPTIONS",
        "migration/#migrate-legacy-special-outbounds-to-rule-actions", Refuse;
    /// `override_address` and `override_port` of the direct outbound.
    DESTINATION_OVERRIDE_FIELDS = "destination-override-fields", "destination override fields in direct outbound", "1.11.0",
        "1.13.0", "DESTINATION_OVERRIDE_FIELDS", "migration/#migrate-destination-override-fields-to-route-options", Refuse;
    /// The `wireguard` outbound.
    WIREGUARD_OUTBOUND = "wireguard-outbound", "legacy wireguard outbound", "1.11.0", "1.13.0", "WIREGUARD_OUTBOUND",
        "migration/#migrate-wireguard-outbound-to-endpoint", Refuse;
    /// `gso` of the `wireguard` outbound.
    WIREGUARD_GSO = "wireguard-gso", "GSO option in wireguard outbound", "1.11.0", "1.13.0", "WIREGUARD_GSO",
        "migration/#migrate-wireguard-outbound-to-endpoint", Refuse;
    /// `gso` of TUN.
    TUN_GSO = "tun-gso", "GSO option in tun", "1.11.0", "1.12.0", "TUN_GSO", "deprecated/#gso-option-in-tun", Refuse;
    /// DNS servers without a type.
    LEGACY_DNS_SERVERS = "legacy-dns-transport", "legacy DNS servers", "1.12.0", "1.14.0", "LEGACY_DNS_SERVERS",
        "migration/#migrate-to-new-dns-server-formats", Warn;
    /// `dns.fakeip`.
    LEGACY_DNS_FAKEIP = "legacy-dns-fakeip-options", "legacy DNS fakeip options", "1.12.0", "1.14.0",
        "LEGACY_DNS_FAKEIP_OPTIONS", "migration/#migrate-to-new-dns-server-formats", Warn;
    /// DNS rule item `outbound`.
    OUTBOUND_DNS_RULE_ITEM = "outbound-dns-rule-item", "outbound DNS rule item", "1.12.0", "1.14.0",
        "OUTBOUND_DNS_RULE_ITEM", "migration/#migrate-outbound-dns-rule-items-to-domain-resolver", Warn;
    /// No resolver is named for a domain, with more than one DNS server to choose from.
    MISSING_DOMAIN_RESOLVER = "missing-domain-resolver",
        "missing `route.default_domain_resolver` or `domain_resolver` in dial fields", "1.12.0", "1.14.0",
        "MISSING_DOMAIN_RESOLVER", "migration/#migrate-outbound-dns-rule-items-to-domain-resolver", Warn;
    /// Two removed options of ECH.
    LEGACY_ECH_OPTIONS = "legacy-ech-options", "legacy ECH options", "1.12.0", "1.13.0", "LEGACY_ECH_OPTIONS",
        "deprecated/#legacy-ech-fields", Refuse;
    /// Dial `domain_strategy`.
    LEGACY_DOMAIN_STRATEGY = "legacy-domain-strategy-options", "legacy domain strategy options", "1.12.0", "1.14.0",
        "LEGACY_DOMAIN_STRATEGY_OPTIONS", "migration/#migrate-domain-strategy-options", Warn;
}

impl Deprecation {
    /// The line that the reference logs.
    #[must_use]
    pub fn message(&self) -> String {
        format!(
            "{} is deprecated in sing-box {} and will be removed in sing-box {}, checkout documentation for migration: {}",
            self.description, self.since, self.removal, self.link
        )
    }

    /// The environment variable that allows a refused feature.
    #[must_use]
    pub fn env_name(&self) -> String {
        format!("ENABLE_DEPRECATED_{}", self.env)
    }

    /// The fatal line that follows a refusal.
    #[must_use]
    pub fn refusal(&self) -> String {
        format!(
            "to continuing using this feature, set environment variable {}=true",
            self.env_name()
        )
    }

    /// Whether the feature must be refused, given the value of [`Self::env_name`].
    #[must_use]
    pub fn refused(&self, env_value: Option<&str>) -> bool {
        self.severity == Severity::Refuse && !env_value.is_some_and(parse_bool)
    }
}

/// Go's `strconv.ParseBool`, for the true side.
fn parse_bool(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Collects notices, each once, in the order of first use. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    list: Arc<Mutex<Vec<&'static Deprecation>>>,
}

impl Notices {
    /// Notes the use of a deprecated feature.
    pub fn push(&self, notice: &'static Deprecation) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&notice) {
            list.push(notice);
        }
    }

    /// What was noted so far.
    #[must_use]
    pub fn list(&self) -> Vec<&'static Deprecation> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
