//! Options of endpoint `wireguard`.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use crosspoint_schema::{
    ConfigError, SchemaBuilder,
    decode::{Cursor, Duration, Field, Listable, Prefix, Secret},
    json::Value,
    options,
    options::DialOptions,
};

options! {
    /// A WireGuard endpoint.
    pub struct WireGuardOptions ("option.WireGuardEndpointOptions") {
        /// Use an interface of the system instead of a stack of our own.
        pub system: bool = "system",
        /// Name of that interface.
        pub name: String = "name",
        /// Largest packet inside; 1408 if unset.
        pub mtu: u32 = "mtu",
        /// Our addresses inside.
        pub address: Listable<Prefix> = "address" always,
        /// Our key.
        pub private_key: Secret = "private_key" always,
        /// UDP port; any if unset.
        pub listen_port: u16 = "listen_port",
        /// Who is on the other side.
        pub peers: Vec<WireGuardPeer> = "peers",
        /// Idle time after which an association of a client ends.
        pub udp_timeout: Duration = "udp_timeout",
        /// Workers that decrypt; one for each core if unset.
        pub workers: i64 = "workers",
        /// How to dial.
        pub dial: DialOptions = flatten,
    }
}

options! {
    /// A peer.
    pub struct WireGuardPeer ("option.WireGuardPeer") {
        /// Its address or name; if unset it has to come to us.
        pub address: String = "address",
        /// Its port.
        pub port: u16 = "port",
        /// Its key.
        pub public_key: String = "public_key",
        /// A secret that both share.
        pub pre_shared_key: Secret = "pre_shared_key",
        /// Addresses that are behind it.
        pub allowed_ips: Listable<Prefix> = "allowed_ips",
        /// Seconds between packets that keep the way open.
        pub persistent_keepalive_interval: u16 = "persistent_keepalive_interval",
        /// Three bytes that stand in every message.
        pub reserved: Bytes = "reserved",
    }
}

/// Bytes as Go's JSON has them: read from an array of numbers or from base64, printed as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Field for Bytes {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match &cursor.node().value {
            Value::String(text) => {
                let bytes = BASE64_STANDARD
                    .decode(text)
                    .map_err(|error| cursor.error(error.to_string()))?;
                Ok(Self(bytes))
            }
            Value::Array(_) => Vec::<u8>::decode(cursor).map(Self),
            value => Err(cursor.error(format!(
                "json: cannot unmarshal {} into Go value of type []uint8",
                value.kind()
            ))),
        }
    }

    fn to_json(&self) -> crosspoint_schema::serde_json::Value {
        BASE64_STANDARD.encode(&self.0).into()
    }

    fn go_type() -> Cow<'static, str> {
        "[]uint8".into()
    }

    fn schema(_: &mut SchemaBuilder) -> crosspoint_schema::serde_json::Value {
        crosspoint_schema::serde_json::json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}]})
    }
}
