//! The JSON form.

use crosspoint_schema::{
    ConfigError, Context,
    decode::Cursor,
    json::{Node, Sources, parse_source, pretty},
    options::RuleSetFile,
};

use super::{FormatError, Rules};

/// Reads a source file in the dialect of configurations: comments and trailing commas are fine.
///
/// # Errors
/// A violation of the syntax, or of the schema of rule-sets.
pub fn read(bytes: &[u8]) -> Result<Rules, FormatError> {
    decode("rule-set", bytes).map(|(_, file)| file.into())
}

/// The syntax tree of a source file and what it decodes to. `name` is what errors call the file.
///
/// # Errors
/// As [`read`].
pub fn decode(name: &str, bytes: &[u8]) -> Result<(Node, RuleSetFile), FormatError> {
    let mut sources = Sources::new();
    // As in Go, what is not UTF-8 is replaced.
    let node = parse_source(&mut sources, name, &String::from_utf8_lossy(bytes))?;
    let file = decode_node(&node, &Context::new(sources)).map_err(Box::new)?;
    Ok((node, file))
}

fn decode_node(node: &Node, cx: &Context) -> Result<RuleSetFile, ConfigError> {
    RuleSetFile::decode(&Cursor::new(node, "", cx))
}

/// The canonical text: two spaces a level, a newline at the end.
#[must_use]
pub fn text(file: &RuleSetFile) -> String {
    pretty(&file.to_json())
}
