//! The DNS section.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::component::{Kind, RawComponent};
use crate::decode::{Cursor, Duration, Field, Map, ObjectCursor, Options, Prefix, Prefixable};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::options::dns_legacy::{self, Upgraded};
use crate::options::{
    DnsPredefinedAction, DnsRule, DnsRuleAction, DomainStrategy, Optimistic, Rcode,
};
use crate::{ConfigError, notice, options};

options! {
    /// Options of the DNS client.
    pub struct DnsClientOptions ("option.DNSClientOptions") {
        /// Which IP versions to ask for, unless a rule or server says otherwise.
        pub strategy: DomainStrategy = "strategy",
        /// Cache nothing.
        pub disable_cache: bool = "disable_cache",
        /// Keep cached answers for ever.
        pub disable_expire: bool = "disable_expire",
        /// A cache per server, looked up after the rules.
        pub independent_cache: bool = "independent_cache",
        /// Answers in the cache; 1024 by default and at least.
        pub cache_capacity: u32 = "cache_capacity",
        /// Send this client subnet with queries, unless a rule or server says otherwise.
        pub client_subnet: Option<Prefixable> = "client_subnet",
        /// Tell answers after their time and fetch new ones meanwhile (of a later version of the reference).
        pub optimistic: Option<Optimistic> = "optimistic",
        /// How long a server may take for a query; 10 seconds by default (of a later version of the reference).
        pub timeout: Option<Duration> = "timeout",
    }
}

options! {
    /// The old form of FakeIP (deprecated: a server of type `fakeip`); unknown members pass.
    pub struct LegacyFakeIpOptions ("option.LegacyDNSFakeIPOptions") loose {
        /// Use the ranges.
        pub enabled: bool = "enabled",
        /// Range of IPv4 addresses.
        pub inet4_range: Option<Prefix> = "inet4_range",
        /// Range of IPv6 addresses.
        pub inet6_range: Option<Prefix> = "inet6_range",
    }
}

/// The DNS section. Old-style servers and `fakeip` are upgraded while it is decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsOptions {
    /// The servers, their options still undecoded.
    pub servers: Vec<RawComponent>,
    /// Rules, tried in order.
    pub rules: Vec<DnsRule>,
    /// Tag of the server for what no rule decides; the first one by default.
    pub final_server: String,
    /// Remember which domain an address was resolved from, for routing.
    pub reverse_mapping: bool,
    /// Options of the client.
    pub client: DnsClientOptions,
}

impl DnsOptions {
    /// The section as JSON, with a function that prints a server.
    pub fn to_json_with(
        &self,
        server: impl Fn(&RawComponent) -> serde_json::Value,
    ) -> serde_json::Value {
        let mut out = Map::new();
        if !self.servers.is_empty() {
            out.insert("servers".to_owned(), self.servers.iter().map(server).collect());
        }
        if let Some(rules) = self.rules.encode() {
            out.insert("rules".to_owned(), rules);
        }
        if let Some(tag) = self.final_server.encode() {
            out.insert("final".to_owned(), tag);
        }
        if self.reverse_mapping {
            out.insert("reverse_mapping".to_owned(), true.into());
        }
        self.client.encode_fields(&mut out);
        out.into()
    }

    /// Describes the section; `servers` is the schema of its servers.
    pub(crate) fn describe(
        builder: &mut SchemaBuilder,
        servers: serde_json::Value,
    ) -> serde_json::Value {
        let mut object = ObjectSchema::new(builder);
        object.describe(&["The DNS section."]);
        object.raw("servers", servers, &["DNS servers; the first one is the default."]);
        object.property::<Vec<DnsRule>>("rules", &["Rules, tried in order."]);
        object.property::<String>(
            "final",
            &["Tag of the server for what no rule decides; the first one by default."],
        );
        object.property::<bool>(
            "reverse_mapping",
            &["Remember which domain an address was resolved from."],
        );
        object.flatten::<DnsClientOptions>();
        object.property::<LegacyFakeIpOptions>("fakeip", &["The old form of FakeIP (deprecated)."]);
        object.build(false)
    }
}

impl Field for DnsOptions {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        // First pass, before empty members vanish: what is old.
        let mut object = ObjectCursor::new(cursor, "option.LegacyDNSOptions")?;
        let fakeip: Option<LegacyFakeIpOptions> = object.field("fakeip");
        object.end_pass()?;
        let fakeip = fakeip.filter(|fakeip| fakeip.enabled);
        if fakeip.is_some() {
            cursor.context().notices.push(&notice::LEGACY_DNS_FAKEIP);
        }

        let cursor = cursor.pruned();
        let mut object = ObjectCursor::new(&cursor, "option.RawDNSOptions")?;
        object.splitting(true);
        object.field_with("fakeip", |_| Ok(()));
        object.splitting(false);
        let upgraded =
            object.field_with("servers", |cursor| decode_servers(cursor, fakeip.as_ref()));
        let mut dns = Self {
            servers: Vec::new(),
            rules: object.field("rules"),
            final_server: object.field("final"),
            reverse_mapping: object.field("reverse_mapping"),
            client: Options::decode_fields(&mut object),
        };
        object.finish(false)?;
        let (servers, rcodes) = upgraded.unwrap_or_default();
        dns.servers = servers;
        for rule in &mut dns.rules {
            apply_rcode(rule, &rcodes);
        }
        Ok(dns)
    }

    fn to_json(&self) -> serde_json::Value {
        self.to_json_with(RawComponent::to_json)
    }

    fn go_type() -> Cow<'static, str> {
        "option.DNSOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        Self::describe(builder, serde_json::json!({"type": "array"}))
    }
}

type Servers = (Vec<RawComponent>, HashMap<String, Rcode>);

/// Splits the servers and upgrades old ones; those that only answer with a code are given apart.
fn decode_servers(
    cursor: &Cursor<'_>,
    fakeip: Option<&LegacyFakeIpOptions>,
) -> Result<Servers, ConfigError> {
    let mut servers: Vec<RawComponent> = Vec::new();
    let mut rcodes = HashMap::new();
    if cursor.node().is_null() {
        return Ok((servers, rcodes));
    }
    let items =
        cursor.node().as_array().ok_or_else(|| cursor.mismatch("[]option.DNSServerOptions"))?;
    for (i, item) in items.iter().enumerate() {
        let cursor = cursor.index(i, item);
        let mut server = RawComponent::split(Kind::DnsServer, i, &cursor)?;
        if matches!(server.type_name.as_str(), "" | "legacy") {
            cursor.context().notices.push(&notice::LEGACY_DNS_SERVERS);
            match dns_legacy::upgrade(server, &cursor, fakeip)? {
                Upgraded::Server(new) => server = *new,
                Upgraded::Rcode(tag, rcode) => {
                    rcodes.insert(tag, rcode);
                    continue;
                }
            }
        }
        // The reference counts servers after it has taken those out that only answer with a code.
        server.index = servers.len();
        servers.push(server);
    }
    Ok((servers, rcodes))
}

/// A rule that leads to a server which only answers with a code answers with it itself.
fn apply_rcode(rule: &mut DnsRule, rcodes: &HashMap<String, Rcode>) {
    let DnsRuleAction::Route(route) = rule.action() else { return };
    if let Some(rcode) = rcodes.get(&route.server) {
        let predefined =
            DnsPredefinedAction { rcode: Some(*rcode), ..DnsPredefinedAction::default() };
        *rule.action_mut() = DnsRuleAction::Predefined(predefined);
    }
}
