//! Trees back to text.

use super::{Node, Value};

/// Converts a tree to a `serde_json` value. Numbers that no JSON library can hold become strings of their digits.
#[must_use]
pub fn to_json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(text) => {
            text.parse::<serde_json::Number>().map_or_else(|_| text.clone().into(), Into::into)
        }
        Value::String(text) => text.clone().into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Object(object) => serde_json::Value::Object(
            object.members.iter().map(|m| (m.key.clone(), to_json(&m.value))).collect(),
        ),
    }
}

/// The text of a tree on one line; numbers exactly as they were written.
#[must_use]
pub fn compact(node: &Node) -> String {
    let mut out = String::new();
    write(node, &mut out);
    out
}

fn write(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(text) => out.push_str(text),
        Value::String(text) => out.push_str(&quote(text)),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (i, member) in object.members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&quote(&member.key));
                out.push(':');
                write(&member.value, out);
            }
            out.push('}');
        }
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text that `format` prints: two spaces a level and a newline at the end; `<`, `>`, `&` and the two Unicode line
/// separators escaped, because the reference's encoder escapes them.
#[must_use]
pub fn pretty(value: &serde_json::Value) -> String {
    let plain = format!("{value:#}");
    let mut out = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        match c {
            // These occur in strings only.
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}
