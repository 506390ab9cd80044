//! Source files and places in them.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// The number of a source in its [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// A range of bytes in one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The source.
    pub source: SourceId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// One file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path as the user gave it, or `stdin`.
    pub name: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
    /// Where each line starts; made when a place is first asked for.
    lines: OnceLock<Box<[u32]>>,
}

impl Source {
    fn lines(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let ends = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            let starts = ends.filter_map(|(at, _)| u32::try_from(at + 1).ok());
            std::iter::once(0).chain(starts).collect()
        })
    }
}

/// All files of one configuration; spans refer to it, also after a merge.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    list: Vec<Source>,
}

/// A place that a human can find: file, line and column, both from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The path as the user gave it.
    pub file: Arc<str>,
    /// Line from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Sources {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file and gives its number.
    pub fn add(&mut self, name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> SourceId {
        let id = SourceId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.list.push(Source { name: name.into(), text: text.into(), lines: OnceLock::new() });
        id
    }

    /// The file with this number.
    #[must_use]
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.list.get(usize::try_from(id.0).ok()?)
    }

    /// All files in the order they were added.
    pub fn iter(&self) -> std::slice::Iter<'_, Source> {
        self.list.iter()
    }

    /// The file, line and column where a span starts.
    #[must_use]
    pub fn locate(&self, span: Span) -> Option<Location> {
        let source = self.get(span.source)?;
        let end = usize::try_from(span.start).ok()?.min(source.text.len());
        let lines = source.lines();
        let line = lines.partition_point(|start| *start as usize <= end);
        let line_start = *lines.get(line.checked_sub(1)?)? as usize;
        // Continuation bytes are not characters of their own.
        let before = source.text.as_bytes().get(line_start..end)?;
        let characters = before.iter().filter(|b| (**b & 0xC0) != 0x80).count();
        Some(Location {
            file: Arc::clone(&source.name),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(characters + 1).unwrap_or(u32::MAX),
        })
    }
}
