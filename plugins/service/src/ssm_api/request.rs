//! Requests, without I/O: which resource a path names, and what a body says.

use crosspoint_schema::decode::Secret;
use serde_json::Value;

use crate::escape;

/// What a path names behind the prefix of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The interface itself.
    Info,
    /// All users.
    Users,
    /// One user.
    User(String),
    /// What was moved.
    Stats,
}

/// Splits a path into endpoint and resource. Of the endpoints whose prefix fits, the longest is taken, as the router of
/// the reference does. `None`: nothing is there.
#[must_use]
pub fn route<'p>(prefixes: impl Iterator<Item = &'p str>, path: &str) -> Option<(usize, Resource)> {
    let fits = prefixes.enumerate().filter_map(|(at, prefix)| {
        let rest = path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((prefix.len(), at, rest))
    });
    let (_, at, rest) = fits.max_by_key(|(len, ..)| *len)?;
    let resource = match rest.strip_prefix("/server/v1")? {
        "" | "/" => Resource::Info,
        "/users" => Resource::Users,
        "/stats" => Resource::Stats,
        rest => {
            let name = rest.strip_prefix("/users/")?;
            if name.is_empty() || name.contains('/') {
                return None;
            }
            Resource::User(escape::undo(name)?)
        }
    };
    Some((at, resource))
}

/// The path of an endpoint without a slash at its end.
#[must_use]
pub fn prefix(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// Whether the query asks to begin counting anew.
#[must_use]
pub fn clears(query: Option<&str>) -> bool {
    let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    // The first value of a name counts, as with Go's `Query().Get`.
    values.clone().find(|(name, _)| *name == "clear").is_some_and(|(_, value)| value == "true")
}

/// What a body says of a user. What it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// `username`.
    pub name: String,
    /// `uPSK`.
    pub secret: Secret,
}

/// A body that says nothing.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// There is none.
    #[error("EOF")]
    Empty,
    /// It ends too early.
    #[error("unexpected EOF")]
    Short,
    /// It is no JSON.
    #[error("{0}")]
    Json(serde_json::Error),
    /// It is no object.
    #[error("json: cannot unmarshal {0} into Go value of type struct")]
    Object(&'static str),
    /// A field is no text.
    #[error("json: cannot unmarshal {value} into Go struct field .{field} of type string")]
    Field {
        /// What it is.
        value: &'static str,
        /// Its name.
        field: &'static str,
    },
}

impl From<serde_json::Error> for BodyError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_eof() { Self::Short } else { Self::Json(error) }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Reads a body as Go does: its first JSON value, names without regard to case, `null` is nothing.
///
/// # Errors
/// [`BodyError`].
pub fn body(bytes: &[u8]) -> Result<Body, BodyError> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let mut body = Body::default();
    let members = match values.next().ok_or(BodyError::Empty)?? {
        Value::Null => return Ok(body),
        Value::Object(members) => members,
        other => return Err(BodyError::Object(kind(&other))),
    };
    for (name, value) in members {
        let field =
            ["username", "uPSK"].into_iter().find(|field| field.eq_ignore_ascii_case(&name));
        let Some(field) = field else { continue };
        match value {
            Value::String(text) if field == "username" => body.name = text,
            Value::String(text) => body.secret = Secret::new(text),
            Value::Null => {}
            other => return Err(BodyError::Field { value: kind(&other), field }),
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(path: &str) -> Option<(usize, Resource)> {
        route(["", "/a", "/a/b"].into_iter(), path)
    }

    #[test]
    fn paths_name_resources_of_the_longest_prefix() {
        assert_eq!(at("/server/v1"), Some((0, Resource::Info)));
        assert_eq!(at("/server/v1/"), Some((0, Resource::Info)));
        assert_eq!(at("/a/server/v1/users"), Some((1, Resource::Users)));
        assert_eq!(at("/a/b/server/v1/stats"), Some((2, Resource::Stats)));
        assert_eq!(at("/server/v1/users/a%20b"), Some((0, Resource::User("a b".into()))));
        for path in
            ["/", "/server/v2", "/server/v1/users/", "/server/v1/users/a/b", "/ab/server/v1"]
        {
            assert_eq!(at(path), None, "{path}");
        }
        assert_eq!(at("/server/v1/users/%zz"), None);
        assert_eq!(at("/server/v1/users/%ff"), None);
        assert!(clears(Some("x=1&clear=true")));
        assert!(!clears(Some("clear=1&clear=true")));
        assert!(!clears(None));
    }

    #[test]
    fn bodies_are_read_as_go_does() {
        let both = Body { name: "a".into(), secret: Secret::new("b") };
        assert_eq!(body(br#"{"username":"a","uPSK":"b","more":1} x"#).unwrap(), both);
        assert_eq!(body(br#"{"USERNAME":"a","upsk":"b"}"#).unwrap(), both);
        assert_eq!(body(b"null").unwrap(), Body::default());
        assert_eq!(body(br#"{"username":null}"#).unwrap(), Body::default());
        assert_eq!(body(b"").unwrap_err().to_string(), "EOF");
        assert_eq!(body(b"{").unwrap_err().to_string(), "unexpected EOF");
        assert!(body(b"x").is_err());
        let field = "json: cannot unmarshal number into Go struct field .uPSK of type string";
        assert_eq!(body(br#"{"uPSK":1}"#).unwrap_err().to_string(), field);
    }

    proptest! {
        #[test]
        fn nothing_panics(path: String, bytes: Vec<u8>) {
            let _ = at(&path);
            let _ = body(&bytes);
        }

        #[test]
        fn escapes_are_undone(name in "[^/%]{1,12}") {
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(at(&format!("/server/v1/users/{escaped}")), Some((0, Resource::User(name))));
        }
    }
}
