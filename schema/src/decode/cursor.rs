//! A place in the tree together with its path.

use std::sync::Arc;

use crate::json::{Location, Node, Sources, Span, Value};
use crate::{ConfigError, Notices};

/// What decoding carries along: the files for locations, and the collector of deprecations.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// All files.
    pub sources: Arc<Sources>,
    /// Deprecations seen so far.
    pub notices: Notices,
}

impl Context {
    /// A context over these files, with no notices yet.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources), notices: Notices::default() }
    }

    /// File, line and column of a span.
    #[must_use]
    pub fn locate(&self, span: Span) -> Option<Location> {
        self.sources.locate(span)
    }
}

/// A node, its path, and the context.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    node: &'a Node,
    path: Path<'a>,
    cx: &'a Context,
    /// Inside a typed object, where the reference drops empty members before it decodes.
    prune: bool,
}

#[derive(Clone, Copy, Debug)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    /// A whole path, where decoding starts in the middle of a document.
    Base(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Cursor<'a> {
    /// The start of a document, or of a part of it that stands at `base`.
    #[must_use]
    pub fn new(node: &'a Node, base: &'a str, cx: &'a Context) -> Self {
        Self { node, path: Path { parent: None, segment: Segment::Base(base) }, cx, prune: false }
    }

    /// The same place with empty members dropped from here on.
    #[must_use]
    pub fn pruned(mut self) -> Self {
        self.prune = true;
        self
    }

    /// Whether empty members are dropped here.
    #[must_use]
    pub fn is_pruned(&self) -> bool {
        self.prune
    }

    /// The same node at the start of a path of its own, as the reference's nested decoders see it.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { path: Path { parent: None, segment: Segment::Base("") }, ..*self }
    }

    /// Another node in the same place, e.g. an upgraded form of it.
    #[must_use]
    pub fn with_node(&self, node: &'a Node) -> Self {
        Self { node, ..*self }
    }

    /// A member of this object.
    #[must_use]
    pub fn member<'b>(&'b self, key: &'b str, node: &'b Node) -> Cursor<'b> {
        Cursor {
            node,
            path: Path { parent: Some(&self.path), segment: Segment::Key(key) },
            ..*self
        }
    }

    /// An element of this array.
    #[must_use]
    pub fn index<'b>(&'b self, index: usize, node: &'b Node) -> Cursor<'b> {
        Cursor {
            node,
            path: Path { parent: Some(&self.path), segment: Segment::Index(index) },
            ..*self
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &'a Context {
        self.cx
    }

    /// The JSON path of this place.
    #[must_use]
    pub fn path(&self) -> String {
        let mut out = String::new();
        self.path.write(&mut out);
        out
    }

    /// An error at this place.
    pub fn error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError::new(self.path(), message).at(self.cx.locate(self.node.span))
    }

    /// The reference's error for a value of the wrong kind.
    pub fn mismatch(&self, go_type: &str) -> ConfigError {
        self.error(format!(
            "json: cannot unmarshal {} into Go value of type {go_type}",
            self.node.value.kind()
        ))
    }

    /// The string here.
    ///
    /// # Errors
    /// It is no string.
    pub fn string(&self) -> Result<&'a str, ConfigError> {
        match &self.node.value {
            Value::String(text) => Ok(text),
            _ => Err(self.mismatch("string")),
        }
    }
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.segment {
            Segment::Base(base) => out.push_str(base),
            Segment::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Segment::Index(index) => {
                out.push('[');
                out.push_str(&index.to_string());
                out.push(']');
            }
        }
    }
}
