//! Objects used as maps.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::json;

use super::{Cursor, Field, Listable, Map};
use crate::ConfigError;
use crate::json_schema::SchemaBuilder;

impl<T: Field> Field for BTreeMap<String, T> {
    fn absent() -> Self {
        Self::new()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Ok(entries(cursor, &Self::go_type())?.into_iter().collect())
    }

    fn to_json(&self) -> serde_json::Value {
        let members: Map = self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect();
        serde_json::Value::Object(members)
    }

    fn go_type() -> Cow<'static, str> {
        format!("map[string]{}", T::go_type()).into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "object", "additionalProperties": T::schema(builder)})
    }
}

fn entries<T: Field>(cursor: &Cursor<'_>, go_type: &str) -> Result<Vec<(String, T)>, ConfigError> {
    let object = cursor.node().as_object().ok_or_else(|| cursor.mismatch(go_type))?;
    object
        .members
        .iter()
        .filter(|m| !(cursor.is_pruned() && m.value.is_empty_container()))
        .map(|m| Ok((m.key.clone(), T::decode_or_null(&cursor.member(&m.key, &m.value))?)))
        .collect()
}

/// A map in the order of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMap<T>(pub Vec<(String, T)>);

impl<T> Default for NodeMap<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Field> Field for NodeMap<T> {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        entries(cursor, &Self::go_type()).map(Self)
    }

    fn to_json(&self) -> serde_json::Value {
        let members: Map =
            self.0.iter().map(|(key, value)| (key.clone(), value.to_json())).collect();
        serde_json::Value::Object(members)
    }

    fn go_type() -> Cow<'static, str> {
        format!("map[string]{}", T::go_type()).into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "object", "additionalProperties": T::schema(builder)})
    }
}

/// HTTP headers: each name with one value or several. Sorted by name, as the reference prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMap(pub BTreeMap<String, Listable<String>>);

impl HeaderMap {
    /// Every name with every value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_str())))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Field for HeaderMap {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Ok(Self(entries(cursor, "badoption.HTTPHeader")?.into_iter().collect()))
    }

    fn to_json(&self) -> serde_json::Value {
        self.0.to_json()
    }

    fn go_type() -> Cow<'static, str> {
        "badoption.HTTPHeader".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        BTreeMap::<String, Listable<String>>::schema(builder)
    }
}
