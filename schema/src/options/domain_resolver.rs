//! Who resolves the domain names that a dialer meets.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Check, Cursor, Field, Options, Prefixable};
use crate::json_schema::SchemaBuilder;
use crate::{ConfigError, options, string_enum};

string_enum! {
    /// Which IP versions of a name to use.
    pub enum DomainStrategy: "unknown domain strategy: " {
        /// Both, in the order they come; the default.
        AsIs = "" | "as_is",
        /// Both, IPv4 first.
        PreferIpv4 = "prefer_ipv4",
        /// Both, IPv6 first.
        PreferIpv6 = "prefer_ipv6",
        /// IPv4 only.
        Ipv4Only = "ipv4_only",
        /// IPv6 only.
        Ipv6Only = "ipv6_only",
    }
}

options! {
    /// The object form of `domain_resolver`; unknown members pass.
    pub struct DomainResolverObject ("option._DomainResolveOptions") loose checked {
        /// Tag of the DNS server.
        pub server: String = "server" always,
        /// Which IP versions to ask for and use.
        pub strategy: DomainStrategy = "strategy",
        /// Do not use the DNS cache.
        pub disable_cache: bool = "disable_cache",
        /// Give the answer this TTL, in seconds.
        pub rewrite_ttl: Option<u32> = "rewrite_ttl",
        /// Send this client subnet with queries.
        pub client_subnet: Option<Prefixable> = "client_subnet",
    }
}

impl Check for DomainResolverObject {
    fn check(&self) -> Result<(), String> {
        if self.server.is_empty() { Err("empty domain_resolver.server".to_owned()) } else { Ok(()) }
    }
}

/// `domain_resolver`: the tag of a DNS server, or an object with more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DomainResolver(pub DomainResolverObject);

impl DomainResolver {
    /// A resolver that is a tag alone.
    pub fn tag(server: impl Into<String>) -> Self {
        Self(DomainResolverObject { server: server.into(), ..DomainResolverObject::default() })
    }
}

impl std::ops::Deref for DomainResolver {
    type Target = DomainResolverObject;

    fn deref(&self) -> &DomainResolverObject {
        &self.0
    }
}

impl Field for DomainResolver {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match cursor.node().as_str() {
            Some(server) => Ok(Self::tag(server)),
            None => DomainResolverObject::decode_object(cursor).map(Self),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        if self.0.server.is_empty() {
            json!({})
        } else if *self == Self::tag(self.0.server.as_str()) {
            self.0.server.as_str().into()
        } else {
            Field::to_json(&self.0)
        }
    }

    fn go_type() -> Cow<'static, str> {
        "option.DomainResolveOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "string"}, DomainResolverObject::schema(builder)]})
    }
}
