//! Answers that are told after their time (`dns.optimistic`, of later versions of the reference).

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Duration, Field, Options};
use crate::json::Value;
use crate::json_schema::SchemaBuilder;
use crate::{ConfigError, options};

options! {
    /// The object form of `dns.optimistic`.
    pub struct OptimisticOptions ("option.OptimisticDNSOptions") {
        /// Tell answers after their time, and fetch new ones meanwhile.
        pub enabled: bool = "enabled",
        /// How long after their time; three days by default.
        pub timeout: Option<Duration> = "timeout",
    }
}

/// `dns.optimistic`: on or off, or an object with more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimistic(pub OptimisticOptions);

impl Optimistic {
    /// How long after its time an answer may be told; `None` for not at all.
    #[must_use]
    pub fn stale(&self) -> Option<std::time::Duration> {
        const DEFAULT: std::time::Duration = std::time::Duration::from_secs(3 * 86_400);
        self.0.enabled.then(|| self.0.timeout.map_or(DEFAULT, |timeout| timeout.get()))
    }
}

impl Field for Optimistic {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match cursor.node().value {
            Value::Bool(enabled) => {
                Ok(Self(OptimisticOptions { enabled, ..OptimisticOptions::default() }))
            }
            _ => OptimisticOptions::decode_object(cursor).map(Self),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        if self.0.timeout.is_none() { self.0.enabled.into() } else { Field::to_json(&self.0) }
    }

    fn go_type() -> Cow<'static, str> {
        "option.OptimisticDNSOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "boolean"}, OptimisticOptions::schema(builder)]})
    }
}
