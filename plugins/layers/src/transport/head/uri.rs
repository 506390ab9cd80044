//! Paths and request targets, read and written as the reference does (Go, net/url: a path is kept decoded, beside the
//! form it was written in where that differs from how it would be written by default).

/// What is wrong with a path or a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// A `%` without two hexadecimal digits behind it.
    #[error("a % in a path needs two hexadecimal digits behind it")]
    Escape,
    /// Neither a path nor a URL.
    #[error("neither a path nor a URL")]
    Target,
}

/// A path of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    plain: Vec<u8>,
    /// As it was written, where that is valid and not the default form.
    raw: Option<String>,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// [`UriError::Escape`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let plain = unescape(text.as_bytes()).ok_or(UriError::Escape)?;
        let own = escape(&plain) != text && text.bytes().all(is_valid);
        Ok(Self { plain, raw: own.then(|| text.to_owned()) })
    }

    /// The decoded path.
    #[must_use]
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The same path, beginning with a slash.
    #[must_use]
    pub fn absolute(mut self) -> Self {
        if self.plain.first() != Some(&b'/') {
            self.plain.insert(0, b'/');
            self.raw = None;
        }
        self
    }

    /// The path with `text` behind it.
    #[must_use]
    pub fn with(&self, text: &str) -> Self {
        let mut plain = self.plain.clone();
        plain.extend(text.as_bytes());
        Self { plain, raw: None }
    }

    /// As it stands in a request.
    #[must_use]
    pub fn escaped(&self) -> String {
        self.raw.clone().unwrap_or_else(|| escape(&self.plain))
    }
}

/// The target of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// Its path; empty where the target has none.
    pub path: Path,
    /// What is behind the first `?`.
    query: Option<String>,
}

impl Uri {
    /// Reads the target of a request: a path, a URL, an authority (`CONNECT`), or `*`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(method: &str, target: &str) -> Result<Self, UriError> {
        if target.is_empty() || target.bytes().any(|b| b.is_ascii_control()) {
            return Err(UriError::Target);
        }
        if method == "CONNECT" && !target.starts_with('/') {
            return Ok(Self::default());
        }
        if target == "*" {
            return Ok(Self { path: Path { plain: b"*".to_vec(), raw: None }, query: None });
        }
        let (scheme, rest) = scheme(target)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        let path = match rest.strip_prefix("//") {
            Some(rest) if scheme => {
                let slash = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(slash);
                if authority.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
                    return Err(UriError::Target);
                }
                path
            }
            _ if rest.starts_with('/') => rest,
            // Opaque, as in `mailto:`; there is no path.
            _ if scheme => "",
            _ => return Err(UriError::Target),
        };
        Ok(Self { path: Path::parse(path)?, query })
    }

    /// Path and query as they stand in a request.
    #[must_use]
    pub fn request(&self) -> String {
        let mut text = self.path.escaped();
        if text.is_empty() {
            text.push('/');
        }
        if let Some(query) = &self.query {
            text.push('?');
            text.push_str(query);
        }
        text
    }
}

/// Whether there is a scheme, and what comes behind it.
fn scheme(target: &str) -> Result<(bool, &str), UriError> {
    for (at, b) in target.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err(UriError::Target),
            b':' => return Ok((true, target.get(at + 1..).unwrap_or_default())),
            _ => break,
        }
    }
    Ok((false, target))
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&b) = rest.next() {
        if b == b'%' {
            let mut digit = || char::from(*rest.next()?).to_digit(16);
            plain.push((digit()? * 16 + digit()?) as u8);
        } else {
            plain.push(b);
        }
    }
    Some(plain)
}

/// Letters, digits, and what the reference leaves as it is when it writes a path.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b)
}

/// What may stand in a path that somebody else has written.
fn is_valid(b: u8) -> bool {
    is_plain(b) || b"!'()*[]%".contains(&b)
}

fn escape(plain: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(plain.len());
    for &b in plain {
        if is_plain(b) {
            text.push(b.into());
        } else {
            text.push('%');
            text.push(HEX[usize::from(b >> 4)].into());
            text.push(HEX[usize::from(b & 15)].into());
        }
    }
    // Go writes a path that is nothing but a star as it is.
    if text == "%2A" { "*".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        Path::parse(text).unwrap().absolute().escaped()
    }

    /// Seen in requests of the reference.
    #[test]
    fn paths_are_written_as_the_reference_does() {
        for (from, to) in [
            ("", "/"),
            ("ws", "/ws"),
            ("/a?ed=2048", "/a%3Fed=2048"),
            ("/a%20b/%2Fc d;e,f=é[x]", "/a%20b//c%20d;e,f=%C3%A9%5Bx%5D"),
            ("/a%2Fb!", "/a%2Fb!"),
            ("a?b c", "/a%3Fb%20c"),
        ] {
            assert_eq!(written(from), to, "{from}");
        }
        assert_eq!(Path::parse("/a%zz"), Err(UriError::Escape));
        assert_eq!(Path::parse("/a%2"), Err(UriError::Escape));
        let early = Path::parse("/x/?a%2f").unwrap().absolute().with("NTRh");
        assert_eq!(early.escaped(), "/x/%3Fa/NTRh");
    }

    #[test]
    fn targets() {
        let path = |target: &str| Uri::parse("GET", target).map(|uri| uri.path.plain().to_vec());
        assert_eq!(path("/x").unwrap(), b"/x");
        assert_eq!(path("/x?q").unwrap(), b"/x");
        assert_eq!(path("/%78").unwrap(), b"/x");
        assert_eq!(path("http://a/x").unwrap(), b"/x");
        assert_eq!(path("//a/x").unwrap(), b"//a/x");
        assert_eq!(path("mailto:x").unwrap(), b"");
        assert_eq!(path("*").unwrap(), b"*");
        for bad in ["", "x", ":x", "/\u{7f}", "/%zz"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert_eq!(Uri::parse("CONNECT", "a:80").unwrap(), Uri::default());
        for (from, to) in [
            ("/x?", "/x?"),
            ("/%78?a?b", "/%78?a?b"),
            ("/a b", "/a%20b"),
            ("/a%2Fb", "/a%2Fb"),
            ("http://a", "/"),
        ] {
            assert_eq!(Uri::parse("GET", from).unwrap().request(), to);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(plain in proptest::collection::vec(0..=255u8, 0..40)) {
            let path = Path { plain, raw: None }.absolute();
            let read = Path::parse(&path.escaped()).unwrap();
            proptest::prop_assert_eq!(read.plain(), path.plain());
        }
    }
}
