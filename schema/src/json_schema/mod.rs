//! A JSON Schema (draft 2020-12) of the configuration, made from the same declarations that decode it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

mod document;

pub use document::{Described, document};

use crate::decode::{Field, Map, Options};

/// Collects definitions while types describe themselves.
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    defs: BTreeMap<String, Value>,
}

impl SchemaBuilder {
    /// Defines an option set once and refers to it.
    pub fn define<T: Options>(&mut self) -> Value {
        self.define_with(T::NAME, |builder| {
            let mut object = ObjectSchema::new(builder);
            T::describe(&mut object);
            object.build(T::LOOSE)
        })
    }

    /// Defines anything once under a name and refers to it.
    pub fn define_with(&mut self, name: &str, build: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.defs.contains_key(name) {
            // The name is taken before the body, which may refer to itself.
            self.defs.insert(name.to_owned(), Value::Null);
            let body = build(self);
            self.defs.insert(name.to_owned(), body);
        }
        json!({"$ref": format!("#/$defs/{name}")})
    }

    /// All definitions made so far.
    #[must_use]
    pub fn into_defs(self) -> Map {
        self.defs.into_iter().collect()
    }
}

/// The schema of one object in the making.
#[derive(Debug)]
pub struct ObjectSchema<'a> {
    builder: &'a mut SchemaBuilder,
    properties: Map,
    required: Vec<String>,
    description: String,
}

impl<'a> ObjectSchema<'a> {
    /// An object without members.
    pub fn new(builder: &'a mut SchemaBuilder) -> Self {
        Self { builder, properties: Map::new(), required: Vec::new(), description: String::new() }
    }

    /// Sets the description if there is none yet.
    pub fn describe(&mut self, doc: &[&str]) {
        if self.description.is_empty() {
            self.description = join(doc);
        }
    }

    /// Adds a member of a type.
    pub fn property<T: Field>(&mut self, key: &str, doc: &[&str]) {
        let schema = T::schema(self.builder);
        self.raw(key, schema, doc);
    }

    /// Adds a member with a schema of its own.
    pub fn raw(&mut self, key: &str, mut schema: Value, doc: &[&str]) {
        let doc = join(doc);
        if let (Value::Object(members), false) = (&mut schema, doc.is_empty()) {
            members.insert("description".to_owned(), doc.into());
        }
        self.properties.insert(key.to_owned(), schema);
    }

    /// Adds a member that has one value only and must be there, such as `type`.
    pub fn constant(&mut self, key: &str, value: &str) {
        self.properties.insert(key.to_owned(), json!({"const": value}));
        self.required.push(key.to_owned());
    }

    /// Adds all members of another option set.
    pub fn flatten<T: Options>(&mut self) {
        let description = std::mem::take(&mut self.description);
        T::describe(self);
        self.description = description;
    }

    /// The definitions, for members that are described by hand.
    pub fn builder(&mut self) -> &mut SchemaBuilder {
        self.builder
    }

    /// The finished schema.
    #[must_use]
    pub fn build(self, loose: bool) -> Value {
        let mut out = Map::new();
        out.insert("type".to_owned(), "object".into());
        if !self.description.is_empty() {
            out.insert("description".to_owned(), self.description.into());
        }
        out.insert("properties".to_owned(), Value::Object(self.properties));
        if !self.required.is_empty() {
            out.insert("required".to_owned(), self.required.into());
        }
        if !loose {
            out.insert("additionalProperties".to_owned(), false.into());
        }
        Value::Object(out)
    }
}

impl ObjectSchema<'_> {
    /// Adds `type` with this one value, and `tag`.
    pub fn typed(&mut self, type_name: &str) {
        self.constant("type", type_name);
        self.property::<String>("tag", &["Name of the component."]);
    }
}

fn join(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n").trim().to_owned()
}
