//! From the syntax tree to typed options, and back to canonical JSON.

mod addr_error;
mod cursor;
mod duration;
mod enums;
mod list;
mod macros;
mod map;
mod mark;
mod net;
mod object;
mod quote;
mod scalar;
mod secret;
mod suggest;

pub use cursor::{Context, Cursor};
pub use duration::{Duration, UdpTimeout};
pub use list::Listable;
pub use map::{HeaderMap, NodeMap};
pub use mark::Mark;
pub use net::{Addr, Network, NetworkList, Prefix, Prefixable, TextAddr, TextPrefix};
pub use object::ObjectCursor;
pub use quote::quote;
pub use secret::Secret;
pub use suggest::nearest;

use std::borrow::Cow;
use std::fmt::Debug;

use crate::ConfigError;
use crate::json_schema::{ObjectSchema, SchemaBuilder};

/// The members of a JSON object in the order they are printed.
pub type Map = serde_json::Map<String, serde_json::Value>;

/// One value of the configuration.
pub trait Field: Sized + Clone + Debug + PartialEq {
    /// The value of an absent option, of `null`, and what `format` leaves out.
    fn absent() -> Self;

    /// Reads the value at the cursor, which is not `null`.
    ///
    /// # Errors
    /// The value has another type or is out of range; the wording is the reference's.
    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError>;

    /// The canonical JSON of this value, whatever it is.
    fn to_json(&self) -> serde_json::Value;

    /// Whether `format` leaves an option with this value out.
    fn is_absent(&self) -> bool {
        *self == Self::absent()
    }

    /// The canonical JSON, `None` where the option is left out.
    fn encode(&self) -> Option<serde_json::Value> {
        (!self.is_absent()).then(|| self.to_json())
    }

    /// The type's name in the reference's `cannot unmarshal … into Go value of type …`.
    fn go_type() -> Cow<'static, str>;

    /// The JSON Schema of the value.
    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value;

    /// Reads the value at the cursor, `null` included.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_or_null(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if cursor.node().is_null() { Ok(Self::absent()) } else { Self::decode(cursor) }
    }
}

/// A set of options that stand together in one object. Made by [`crate::options!`].
pub trait Options: Sized + Default + Clone + Debug + PartialEq {
    /// The reference's name of the type, for its error messages.
    const GO_TYPE: &'static str;
    /// The name of the definition in the JSON Schema.
    const NAME: &'static str;
    /// Whether unknown members pass, as they do in a few places of the reference.
    const LOOSE: bool;

    /// Takes the members that belong to these options; errors stay in the object cursor until it is finished.
    fn decode_fields(object: &mut ObjectCursor<'_>) -> Self;

    /// Writes the members that are set.
    fn encode_fields(&self, out: &mut Map);

    /// Describes the members to a schema.
    fn describe(object: &mut ObjectSchema<'_>);

    /// The whole object as JSON.
    fn to_map(&self) -> Map {
        let mut out = Map::new();
        self.encode_fields(&mut out);
        out
    }

    /// Reads a whole object: every member must be known unless the type is loose.
    ///
    /// # Errors
    /// The first error in the order of the document.
    fn decode_object(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(cursor, Self::GO_TYPE)?;
        let value = Self::decode_fields(&mut object);
        object.finish(Self::LOOSE)?;
        Ok(value)
    }
}

/// Rules between the members of one object; for [`crate::options!`] with the flag `checked`.
pub trait Check {
    /// Looks at the decoded object.
    ///
    /// # Errors
    /// The message of the violated rule, which is reported at the object.
    fn check(&self) -> Result<(), String>;
}

/// Drops members that hold nothing but empty objects and arrays, as the reference does before it prints.
#[must_use]
pub fn prune(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(is_empty),
            Value::Object(members) => members.values().all(is_empty),
            _ => false,
        }
    }
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, v)| !is_empty(v))
            .map(|(key, v)| (key, prune(v)))
            .collect(),
        Value::Array(items) => items.into_iter().map(prune).collect(),
        other => other,
    }
}
