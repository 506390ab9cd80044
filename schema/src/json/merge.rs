//! Merging several files into one configuration.

use super::{Node, Value};

/// Two files disagree on what a member is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}cannot merge json object into {found}", self.prefix())]
pub struct MergeError {
    /// Keys from the root to the member.
    pub path: Vec<String>,
    /// What the later file has there.
    pub found: &'static str,
    /// Where the later file has it.
    pub span: super::Span,
}

impl MergeError {
    fn prefix(&self) -> String {
        self.path.iter().map(|key| format!("merge object item {key}: ")).collect()
    }
}

/// Merges `later` into `first`: objects merge, arrays append, and where both have a scalar the first one stays.
/// An array also takes in a single value that the later file has in its place.
///
/// # Errors
/// The first file has an object where the later one has something else.
pub fn merge(first: &mut Node, later: Node) -> Result<(), MergeError> {
    merge_at(first, later, &mut Vec::new())
}

fn merge_at(first: &mut Node, later: Node, path: &mut Vec<String>) -> Result<(), MergeError> {
    let Node { value, span } = later;
    match (&mut first.value, value) {
        // Nothing written yet, e.g. a document `null`.
        (Value::Null, value) if path.is_empty() => *first = Node { value, span },
        (Value::Array(items), Value::Array(more)) => items.extend(more),
        (Value::Array(items), value) => items.push(Node { value, span }),
        (Value::Object(object), Value::Object(more)) => {
            for member in more.members {
                match object.members.iter_mut().find(|m| m.key == member.key) {
                    Some(mine) => {
                        path.push(member.key);
                        merge_at(&mut mine.value, member.value, path)?;
                        path.pop();
                    }
                    None => object.members.push(member),
                }
            }
        }
        (Value::Object(_), Value::Null) if path.is_empty() => {}
        (Value::Object(_), value) => {
            return Err(MergeError { path: path.clone(), found: go_type(&value), span });
        }
        _ => {}
    }
    Ok(())
}

/// How Go names the type it decodes this value into.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "badjson.JSONArray",
        Value::Object(_) => "*badjson.JSONObject",
    }
}

/// Forgets the earlier values of repeated keys: before it merges files, the reference keeps the last ones only.
pub(super) fn forget_repeated(node: &mut Node) {
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(forget_repeated),
        Value::Object(object) => {
            for member in &mut object.members {
                member.earlier.clear();
                forget_repeated(&mut member.value);
            }
        }
        _ => {}
    }
}

/// What decoding one value after the other into the same variable makes of them in Go: objects merge, any other value
/// replaces the one before.
#[must_use]
pub fn overlay(first: Node, later: &Node) -> Node {
    match (first.value, &later.value) {
        (Value::Object(mut object), Value::Object(more)) => {
            for member in &more.members {
                match object.members.iter_mut().find(|m| m.key.eq_ignore_ascii_case(&member.key)) {
                    Some(mine) => {
                        let old = std::mem::replace(&mut mine.value, member.value.clone());
                        mine.value = overlay(old, &member.value);
                    }
                    None => object.members.push(member.clone()),
                }
            }
            Node { value: Value::Object(object), span: later.span }
        }
        // `null` leaves a plain variable alone.
        (first @ (Value::Bool(_) | Value::Number(_) | Value::String(_)), Value::Null) => {
            Node { value: first, span: later.span }
        }
        _ => later.clone(),
    }
}
