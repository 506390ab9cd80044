//! UDP carried in a TCP stream.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Field, Options};
use crate::json::Value;
use crate::json_schema::SchemaBuilder;
use crate::{ConfigError, options};

options! {
    /// The object form of `udp_over_tcp`.
    pub struct UdpOverTcpObject ("option._UDPOverTCPOptions") {
        /// Send UDP over TCP.
        pub enabled: bool = "enabled",
        /// Version of the protocol, 1 or 2; 2 when 0.
        pub version: u8 = "version",
    }
}

/// `udp_over_tcp`: a boolean, or an object with a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UdpOverTcpOptions(pub UdpOverTcpObject);

impl UdpOverTcpOptions {
    /// Whether it is switched on.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.0.enabled
    }

    /// Version of the protocol; unset means 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.0.version == 0 { 2 } else { self.0.version }
    }
}

impl Field for UdpOverTcpOptions {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match cursor.node().value {
            Value::Bool(enabled) => Ok(Self(UdpOverTcpObject { enabled, version: 0 })),
            _ => UdpOverTcpObject::decode_object(cursor).map(Self),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self.0.version {
            0 | 2 => self.0.enabled.into(),
            _ => Field::to_json(&self.0),
        }
    }

    fn go_type() -> Cow<'static, str> {
        "option.UDPOverTCPOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "boolean"}, UdpOverTcpObject::schema(builder)]})
    }
}
