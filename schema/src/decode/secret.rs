//! Passwords and keys.

use std::borrow::Cow;
use std::fmt;

use super::{Cursor, Field};
use crate::ConfigError;
use crate::json_schema::SchemaBuilder;

/// A string that no log may show. `format` prints it as it is, as the reference does.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with what a peer sent in a time that depends on the lengths only.
    #[must_use]
    pub fn matches(&self, other: impl AsRef<[u8]>) -> bool {
        let (mine, theirs) = (self.0.as_bytes(), other.as_ref());
        let mut difference = u8::from(mine.len() != theirs.len());
        for (i, byte) in theirs.iter().enumerate() {
            // A shorter secret wraps around; the lengths differ then already.
            let at = if mine.is_empty() { 0 } else { i % mine.len() };
            difference |= byte ^ mine.get(at).copied().unwrap_or(0);
        }
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "***" })
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl Field for Secret {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Ok(Self::new(cursor.string()?))
    }

    fn to_json(&self) -> serde_json::Value {
        self.0.as_str().into()
    }

    fn go_type() -> Cow<'static, str> {
        "string".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        serde_json::json!({"type": "string", "writeOnly": true})
    }
}
