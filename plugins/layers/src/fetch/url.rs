//! URLs of schemes `http` and `https` (RFC 3986), as far as an HTTP client needs them.

use crosspoint_kernel::{
    addr::{Host, Target},
    fetch::FetchError,
};

/// Longest URL, in bytes.
const MAX: usize = 16 << 10;

/// A URL that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// TLS is used.
    pub secure: bool,
    /// Whom to connect to.
    pub target: Target,
    /// The host without brackets, as certificates name it.
    pub host: String,
    /// Host and port as the `Host` field says them, without a port that goes without saying.
    pub authority: String,
    /// Path and query; begins with a slash.
    pub path: String,
    /// `name:password`, if the URL has it.
    pub login: Option<String>,
}

impl Url {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// It is none, or has another scheme.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        Self::read(text).ok_or_else(|| bad(text))
    }

    fn read(text: &str) -> Option<Self> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if text.len() > MAX || !plain(text) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (login, host_port) = match authority.rsplit_once('@') {
            Some((login, host_port)) => (Some(unescape(login)?), host_port),
            None => (None, authority),
        };
        let default = if secure { 443 } else { 80 };
        let (host, port) = match host_port.rfind(':') {
            Some(at) if !host_port.get(at..)?.contains(']') => {
                (host_port.get(..at)?, host_port.get(at + 1..)?)
            }
            _ => (host_port, ""),
        };
        let port = match port {
            "" => default,
            port if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok()?,
            _ => return None,
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let wanted = Host::from(host);
        let fits = match &wanted {
            Host::Ip(ip) => ip.is_ipv4() || bare.is_some(),
            Host::Name(name) => {
                !name.is_empty() && name.len() <= 253 && !name.contains([':', '[', ']', '%', '\\'])
            }
        };
        if !fits {
            return None;
        }
        let authority = if port == default { host.to_owned() } else { format!("{host}:{port}") };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self {
            secure,
            target: Target { host: wanted, port },
            host: bare.unwrap_or(host).to_owned(),
            authority,
            path,
            login,
        })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Whether both ask the same host.
    #[must_use]
    pub fn same_host(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
    }

    /// The URL that a reference (`Location`) in an answer of this one means.
    ///
    /// # Errors
    /// It is none, or has another scheme.
    pub fn join(&self, reference: &str) -> Result<Self, FetchError> {
        let reference = reference.trim();
        let scheme = reference.split_once(':').map_or("", |(scheme, _)| scheme);
        if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        let own = self.path.split('?').next().unwrap_or("/");
        let path = match reference.as_bytes().first() {
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{own}{reference}"),
            Some(b'#') | None => self.path.clone(),
            Some(_) => {
                let folder = own.rfind('/').and_then(|at| own.get(..=at)).unwrap_or("/");
                format!("{folder}{reference}")
            }
        };
        let absolute = format!("{}://{}{}", self.scheme(), self.authority, without_dots(&path));
        let mut joined = Self::parse(&absolute)?;
        joined.login.clone_from(&self.login);
        Ok(joined)
    }
}

fn bad(text: &str) -> FetchError {
    FetchError::Url(text.chars().take(256).collect::<String>().into())
}

/// Takes `.` and `..` out of a path (RFC 3986 §5.2.4); what follows a question mark stays.
fn without_dots(path: &str) -> String {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, query) = path.split_at_checked(end).unwrap_or((path, ""));
    let mut out: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            part => out.push(part),
        }
    }
    format!("/{}{query}", out.join("/"))
}

/// `%41` is `A`.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses() {
        let url = Url::parse("https://u:p%40@a.test:8443/x/y?z#f").unwrap();
        assert!(url.secure);
        assert_eq!(url.target.to_string(), "a.test:8443");
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("a.test:8443", "/x/y?z"));
        assert_eq!(url.login.as_deref(), Some("u:p@"));
        let url = Url::parse("HTTP://[::1]?q").unwrap();
        assert_eq!(
            (url.host.as_str(), url.authority.as_str(), url.path.as_str()),
            ("::1", "[::1]", "/?q")
        );
        assert_eq!(Url::parse("https://a.test:443").unwrap().authority, "a.test");
        for bad in [
            "",
            "x",
            "ftp://a",
            "http://",
            "http://a b",
            "http://::1/",
            "http://a:x/",
            "http://a:70000/",
            "http://[::1/",
            "http:///p",
            "http://a\r\n/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references() {
        let base = Url::parse("http://a.test:81/b/c/d?q").unwrap();
        for (reference, whole) in [
            ("https://x.test/y", "https://x.test/y"),
            ("//x.test/y", "http://x.test/y"),
            ("/y", "http://a.test:81/y"),
            ("y", "http://a.test:81/b/c/y"),
            ("../y", "http://a.test:81/b/y"),
            ("../../../../y?a=..", "http://a.test:81/y?a=.."),
            (".", "http://a.test:81/b/c/"),
            ("?x", "http://a.test:81/b/c/d?x"),
            ("", "http://a.test:81/b/c/d?q"),
        ] {
            assert_eq!(base.join(reference).unwrap(), Url::parse(whole).unwrap(), "{reference}");
        }
        assert!(base.join("http:").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(a in "\\PC*", b in "[a-z/.?#:@%\\[\\]0-9]{0,40}") {
            let _ = Url::parse(&a);
            let _ = Url::parse(&format!("http://{b}"));
            let _ = Url::parse("http://a.test/b/c").unwrap().join(&b);
        }
    }
}
