//! Lists that may be written as a single value.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use serde_json::json;

use super::{Cursor, Field};
use crate::ConfigError;
use crate::json_schema::SchemaBuilder;

/// One value or an array of values; a list of one is printed as the value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listable<T>(pub Vec<T>);

impl<T> Default for Listable<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for Listable<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> DerefMut for Listable<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T> From<Vec<T>> for Listable<T> {
    fn from(list: Vec<T>) -> Self {
        Self(list)
    }
}

impl<T> FromIterator<T> for Listable<T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl<'a, T> IntoIterator for &'a Listable<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Field> Field for Listable<T> {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        // No item of a list is itself written as an array, so an array is a list. Tried first because the
        // error of the other form costs a search for its place in the file.
        if cursor.node().as_array().is_some()
            && let Ok(list) = Vec::<T>::decode(&cursor.detached())
        {
            return Ok(Self(list));
        }
        // The reference tries both forms on the value alone, so the paths in its message start here.
        let single = match T::decode(&cursor.detached()) {
            Ok(value) => return Ok(Self(vec![value])),
            Err(error) => error,
        };
        let list = match Vec::<T>::decode(&cursor.detached()) {
            Ok(list) => return Ok(Self(list)),
            Err(error) => error,
        };
        let (first, second) = (single.relative(), list.relative());
        let mut error =
            cursor.error(if first == second { first } else { format!("({first} | {second})") });
        // The place and the hint of the form that was probably meant.
        let meant = if cursor.node().as_array().is_some() { list } else { single };
        error.location = meant.location.or(error.location);
        error.hint = meant.hint;
        Err(error)
    }

    fn to_json(&self) -> serde_json::Value {
        match self.0.as_slice() {
            // As for other lists.
            [] => serde_json::Value::Null,
            [single] => single.to_json(),
            list => list.iter().map(T::to_json).collect(),
        }
    }

    fn go_type() -> Cow<'static, str> {
        format!("badoption.Listable[{}]", T::go_type()).into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        let item = T::schema(builder);
        json!({"anyOf": [item, {"type": "array", "items": item}]})
    }
}
