//! The syntax tree of a configuration: JSON with the place of every value and key.
//!
//! The dialect is the reference's: `//`, `#` and `/* */` comments, trailing commas, anything after the first value ignored,
//! the last of several equal keys wins.

mod emit;
mod load;
mod merge;
mod parse;
mod source;

pub use emit::{compact, pretty, to_json};
pub use load::{LoadError, Loaded, Loader};
pub use merge::{MergeError, merge, overlay};
pub use parse::{MAX_DEPTH, SyntaxError, parse, parse_source};
pub use source::{Location, Source, SourceId, Sources, Span};

/// A value together with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What was written.
    pub value: Value,
    /// Where it was written.
    pub span: Span,
}

impl PartialEq for Node {
    /// Compares what was written, not where.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A JSON value; numbers keep their text, objects the order of their members.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The text of a number, which is valid JSON.
    Number(String),
    /// A string, unescaped.
    String(String),
    /// The elements of an array.
    Array(Vec<Node>),
    /// The members of an object.
    Object(Object),
}

/// The members of an object in the order of the document, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// The members.
    pub members: Vec<Member>,
}

/// One `"key": value` of an object.
#[derive(Clone, Debug)]
pub struct Member {
    /// The key as written.
    pub key: String,
    /// Where the key was written.
    pub key_span: Span,
    /// The value: the last one, where the key is repeated.
    pub value: Node,
    /// Earlier values of a repeated key, which matter in the few objects that the reference decodes one after the other.
    pub earlier: Vec<Node>,
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Node {
    /// A node made by the program, which reports `span` as its place.
    #[must_use]
    pub fn new(value: Value, span: Span) -> Self {
        Self { value, span }
    }

    /// A string node.
    pub fn string(text: impl Into<String>, span: Span) -> Self {
        Self::new(Value::String(text.into()), span)
    }

    /// An empty object.
    #[must_use]
    pub fn object(span: Span) -> Self {
        Self::new(Value::Object(Object::default()), span)
    }

    /// The object in this node, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match &self.value {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The elements of this node, if it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The string in this node, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Whether this is an object or array that holds nothing but empty objects and arrays.
    ///
    /// The reference drops such members inside typed objects before it decodes them, and from what `format` prints.
    #[must_use]
    pub fn is_empty_container(&self) -> bool {
        match &self.value {
            Value::Array(items) => items.iter().all(Node::is_empty_container),
            Value::Object(object) => object.members.iter().all(|m| m.value.is_empty_container()),
            _ => false,
        }
    }
}

impl Value {
    /// The word that the reference's errors use for this kind of value.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

impl Object {
    /// The member with exactly this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.key == key)
    }

    /// Sets a member, replacing the value of an equal key in its place.
    pub fn put(&mut self, key: impl Into<String>, value: Node) {
        let key = key.into();
        match self.members.iter_mut().find(|m| m.key == key) {
            Some(member) => member.value = value,
            None => {
                self.members.push(Member { key, key_span: value.span, value, earlier: Vec::new() })
            }
        }
    }
}
