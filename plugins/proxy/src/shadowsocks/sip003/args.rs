//! Options of a plugin in one text: `key=value;key;…`, with `\` in front of `;`, `=` and `\` that mean themselves
//! (SIP003, after the pluggable transports of Tor).

/// A text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// It ends with a `\` that stands in front of nothing.
    #[error("parse plugin_opts: nothing following final escape in {0:?}")]
    Escape(String),
    /// A value without name.
    #[error("parse plugin_opts: empty key in {0:?}")]
    Key(String),
}

/// Names with values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Reads a text.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn parse(text: &str) -> Result<Self, ArgsError> {
        let mut args = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (key, behind) = until(rest, &['=', ';'])?;
            if key.is_empty() {
                return Err(ArgsError::Key(rest.to_owned()));
            }
            // A name alone is a switch.
            let (value, behind) = match behind.strip_prefix('=') {
                Some(behind) => until(behind, &[';'])?,
                None => ("1".to_owned(), behind),
            };
            args.push((key, value));
            rest = behind.strip_prefix(';').unwrap_or(behind);
        }
        Ok(Self(args))
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The text up to one of `ends`, without escapes, and the rest from there on.
fn until<'t>(text: &'t str, ends: &[char]) -> Result<(String, &'t str), ArgsError> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) => out.push(escaped),
                None => return Err(ArgsError::Escape(text.to_owned())),
            },
            c if ends.contains(&c) => return Ok((out, &text[at..])),
            c => out.push(c),
        }
    }
    Ok((out, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>, ArgsError> {
        Args::parse(text).map(|args| args.0)
    }

    #[test]
    fn texts_are_read_as_the_reference_does() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs("").unwrap(), []);
        assert_eq!(
            pairs("obfs=http;obfs-host=a.test").unwrap(),
            [pair("obfs", "http"), pair("obfs-host", "a.test")]
        );
        assert_eq!(pairs("tls;mux=0;").unwrap(), [pair("tls", "1"), pair("mux", "0")]);
        assert_eq!(pairs(r"a\;b=c\=\\d=e;f=").unwrap(), [pair("a;b", r"c=\d=e"), pair("f", "")]);
        assert!(matches!(pairs(r"a\"), Err(ArgsError::Escape(_))));
        assert!(matches!(pairs("a;;b"), Err(ArgsError::Key(_))));
        assert!(matches!(pairs("=x"), Err(ArgsError::Key(_))));
        assert_eq!(Args::parse("a=1;a=2").unwrap().get("a"), Some("1"));
    }

    proptest! {
        #[test]
        fn reading_undoes_escaping(args in proptest::collection::vec(("[ -~]{1,8}", "[ -~]{0,8}"), 0..5)) {
            let escape = |text: &str| {
                let mut out = String::new();
                for c in text.chars() {
                    if matches!(c, '\\' | ';' | '=') {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out
            };
            let text: Vec<String> =
                args.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
            prop_assert_eq!(pairs(&text.join(";")).unwrap(), args);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = Args::parse(&text);
        }
    }
}
