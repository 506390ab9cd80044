//! Routing marks.

use std::borrow::Cow;

use serde_json::json;

use super::{Cursor, Field, quote};
use crate::ConfigError;
use crate::json::Value;
use crate::json_schema::SchemaBuilder;

/// A firewall mark: an integer, or a string with `0x`, `0o`, `0b`, a leading `0` for octal, or decimal. Zero is unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(pub u32);

impl Mark {
    /// The mark, if one is set.
    #[must_use]
    pub fn get(self) -> Option<u32> {
        (self.0 != 0).then_some(self.0)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", quote(text));
        let lower = text.to_ascii_lowercase();
        let (digits, radix) = if let Some(hex) = lower.strip_prefix("0x") {
            (hex, 16)
        } else if let Some(octal) = lower.strip_prefix("0o") {
            (octal, 8)
        } else if let Some(binary) = lower.strip_prefix("0b") {
            (binary, 2)
        } else if lower.len() > 1 && lower.starts_with('0') {
            (lower.get(1..).unwrap_or_default(), 8)
        } else {
            (lower.as_str(), 10)
        };
        // `_` separates digits, not more than one at a time and not at the end.
        let separators_fit = !digits.ends_with('_') && !digits.contains("__");
        let digits = digits.replace('_', "");
        if digits.is_empty() || !separators_fit || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(fail("invalid syntax"));
        }
        u32::from_str_radix(&digits, radix).map(Self).map_err(|_| fail("value out of range"))
    }
}

impl Field for Mark {
    fn absent() -> Self {
        Self(0)
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match &cursor.node().value {
            Value::String(text) => Self::parse(text).map_err(|message| cursor.error(message)),
            Value::Number(text) if text.parse::<u32>().is_ok() => Ok(Self(text.parse().unwrap_or(0))),
            value => Err(cursor.error(format!(
                "invalid number or string mark: json: cannot unmarshal {} into Go value of type string",
                value.kind()
            ))),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        format!("{:#x}", self.0).into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.FwMark".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": u32::MAX}, {"type": "string"}]})
    }
}
