//! Booleans, integers, strings, and options of anything.

use std::borrow::Cow;

use serde_json::json;

use super::{Cursor, Field};
use crate::ConfigError;
use crate::json::Value;
use crate::json_schema::SchemaBuilder;

impl Field for bool {
    fn absent() -> Self {
        false
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match cursor.node().value {
            Value::Bool(value) => Ok(value),
            _ => Err(cursor.mismatch("bool")),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }

    fn go_type() -> Cow<'static, str> {
        "bool".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "boolean"})
    }
}

impl Field for String {
    fn absent() -> Self {
        Self::new()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Ok(cursor.string()?.to_owned())
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_str().into()
    }

    fn go_type() -> Cow<'static, str> {
        "string".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "string"})
    }
}

macro_rules! integers {
    ($($ty:ty = $go:literal),*) => {$(
        impl Field for $ty {
            fn absent() -> Self {
                0
            }

            fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
                match &cursor.node().value {
                    Value::Number(text) => text.parse().map_err(|_| {
                        cursor.error(format!("json: cannot unmarshal number {text} into Go value of type {}", $go))
                    }),
                    _ => Err(cursor.mismatch($go)),
                }
            }

            fn to_json(&self) -> serde_json::Value {
                (*self).into()
            }

            fn go_type() -> Cow<'static, str> {
                $go.into()
            }

            fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
                json!({"type": "integer", "minimum": <$ty>::MIN, "maximum": <$ty>::MAX})
            }
        }
    )*};
}

// Go's `int` has 64 bits on every platform that the reference runs on with our options.
integers!(u8 = "uint8", u16 = "uint16", u32 = "uint32", u64 = "uint64", i32 = "int32", i64 = "int");

impl<T: Field> Field for Option<T> {
    fn absent() -> Self {
        None
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        T::decode(cursor).map(Some)
    }

    fn to_json(&self) -> serde_json::Value {
        self.as_ref().map_or(serde_json::Value::Null, T::to_json)
    }

    fn go_type() -> Cow<'static, str> {
        T::go_type()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        T::schema(builder)
    }
}

impl<T: Field> Field for Box<T> {
    fn absent() -> Self {
        Self::new(T::absent())
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        T::decode(cursor).map(Self::new)
    }

    fn to_json(&self) -> serde_json::Value {
        T::to_json(self)
    }

    fn is_absent(&self) -> bool {
        T::is_absent(self)
    }

    fn go_type() -> Cow<'static, str> {
        T::go_type()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        T::schema(builder)
    }
}

impl<T: Field> Field for Vec<T> {
    fn absent() -> Self {
        Self::new()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let items = cursor.node().as_array().ok_or_else(|| cursor.mismatch(&Self::go_type()))?;
        items
            .iter()
            .enumerate()
            .map(|(i, item)| T::decode_or_null(&cursor.index(i, item)))
            .collect()
    }

    fn to_json(&self) -> serde_json::Value {
        // Seen only where the option is printed `always`: Go prints a list that was not written as `null`.
        if self.is_empty() {
            serde_json::Value::Null
        } else {
            self.iter().map(T::to_json).collect()
        }
    }

    fn go_type() -> Cow<'static, str> {
        format!("[]{}", T::go_type()).into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "array", "items": T::schema(builder)})
    }
}
