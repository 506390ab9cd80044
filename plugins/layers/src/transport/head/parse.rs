//! Heads of requests and answers, read as strictly as the reference reads them (Go, net/http and net/textproto).

use std::borrow::Cow;

use super::uri::Uri;

/// Longest head, in bytes. The reference takes a mebibyte; only early data makes heads long, and those are far shorter.
pub const MAX_HEAD: usize = 256 * 1024;

/// A head that is refused: what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad HTTP head: {status} {reason}")]
pub struct Reject {
    /// Status of the answer.
    pub status: u16,
    /// What the answer says beyond that; may be empty.
    pub reason: &'static str,
}

const BAD: Reject = reject(400, "");

const fn reject(status: u16, reason: &'static str) -> Reject {
    Reject { status, reason }
}

/// Fields of a head, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>(Vec<(&'a [u8], Cow<'a, [u8]>)>);

impl<'a> Fields<'a> {
    /// Reads lines up to the empty one.
    fn read(lines: &mut Lines<'a>) -> Result<Self, Reject> {
        let mut fields: Vec<(&[u8], Cow<'_, [u8]>)> = Vec::with_capacity(12);
        for line in lines {
            if line.is_empty() {
                break;
            }
            let text = line.trim_ascii();
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                // A line of its own that belongs to the one before (RFC 9112 §5.2).
                let (_, value) = fields.last_mut().ok_or(BAD)?;
                check_value(text)?;
                let value = value.to_mut();
                value.push(b' ');
                value.extend(text);
                continue;
            }
            let colon = text.iter().position(|b| *b == b':').ok_or(BAD)?;
            let (name, value) = text.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            check_value(value)?;
            if name.is_empty() || !name.iter().all(|b| is_token(*b) || *b == b' ') {
                return Err(BAD);
            }
            if name.contains(&b' ') {
                return Err(reject(400, "invalid header name"));
            }
            fields.push((name, value.into()));
        }
        Ok(Self(fields))
    }

    /// All values of that name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }

    /// The first value of that name; empty if there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &[u8] {
        let mut fields = self.0.iter();
        let field = fields.find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
        field.map(|(_, value)| value.as_ref()).unwrap_or_default()
    }

    /// Whether the first value of that name is `value`, upper or lower case.
    #[must_use]
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).eq_ignore_ascii_case(value.as_bytes())
    }

    /// Whether the first value of that name is a list with `word` in it.
    #[must_use]
    pub fn has(&self, name: &str, word: &str) -> bool {
        let mut words = self.get(name).split(|b| *b == b',');
        words.any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// What a request has behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// As many as it says on the way.
    Chunked,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// Whom and what it asks for.
    pub uri: Uri,
    /// The minor version of HTTP/1; the preface of HTTP/2 counts as 1.
    pub minor: u8,
    /// The value of `Host`.
    pub host: Cow<'a, [u8]>,
    /// Its fields.
    pub fields: Fields<'a>,
    /// Its body.
    pub body: Body,
    /// No further request may follow.
    pub last: bool,
}

/// The line that begins a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    method: &'a str,
    uri: Uri,
    version: (u8, u8),
}

impl<'a> Line<'a> {
    /// Reads it; the head may be incomplete behind it. Nothing while the line is.
    ///
    /// # Errors
    /// It is not the first line of a request.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Reject> {
        if !bytes.contains(&b'\n') {
            return Ok(None);
        }
        let line = Lines(bytes).next().unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| BAD)?;
        let (method, rest) = line.split_once(' ').ok_or(BAD)?;
        let (target, version) = rest.split_once(' ').ok_or(BAD)?;
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(BAD);
        }
        let version = version.strip_prefix("HTTP/").ok_or(BAD)?;
        let version = match *version.as_bytes() {
            [major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => (major - b'0', minor - b'0'),
            _ => return Err(BAD),
        };
        let uri = Uri::parse(method, target).map_err(|_| BAD)?;
        Ok(Some(Self { method, uri, version }))
    }
}

impl<'a> Request<'a> {
    /// Reads a complete head.
    ///
    /// # Errors
    /// What is to be answered instead.
    pub fn parse(head: &'a [u8]) -> Result<Self, Reject> {
        let Line { method, uri, version } = Line::parse(head)?.ok_or(BAD)?;
        let mut lines = Lines(head);
        lines.next();
        let fields = Fields::read(&mut lines)?;
        let mut hosts = fields.all("host").map(<[u8]>::to_vec);
        let (host, more) = (hosts.next(), hosts.next());
        drop(hosts);
        if more.is_some() {
            return Err(BAD);
        }
        let new = version >= (1, 1);
        let body = match fields.all("transfer-encoding").collect::<Vec<_>>()[..] {
            _ if !new => Body::Length(0),
            [] => Body::Length(0),
            [one] if one.eq_ignore_ascii_case(b"chunked") => Body::Chunked,
            _ => return Err(reject(501, "Unsupported transfer encoding")),
        };
        let body = match (body, fields.get("content-length")) {
            (Body::Length(_), text) if !text.is_empty() => Body::Length(number(text).ok_or(BAD)?),
            (body, _) => body,
        };
        let preface = version == (2, 0) && method == "PRI" && uri.path.plain() == b"*";
        if version.0 != 1 && !preface {
            return Err(reject(505, "unsupported protocol version"));
        }
        if host.is_none() && new && !preface && method != "CONNECT" {
            return Err(reject(400, "missing required Host header"));
        }
        let host = host.unwrap_or_default();
        if !host.iter().all(|b| is_host(*b)) {
            return Err(reject(400, "malformed Host header"));
        }
        let last = preface
            || fields.has("connection", "close")
            || !new && !fields.has("connection", "keep-alive");
        let minor = if preface { 1 } else { version.1 };
        Ok(Self { method, uri, minor, host: host.into(), fields, body, last })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Fields<'a>,
}

impl<'a> Response<'a> {
    /// Reads a complete head.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(head: &'a [u8]) -> Result<Self, Reject> {
        let mut lines = Lines(head);
        let line = lines.next().unwrap_or_default();
        let rest = line.strip_prefix(b"HTTP/1.").ok_or(BAD)?;
        let [b'0'..=b'9', b' ', status @ ..] = rest else { return Err(BAD) };
        let status = status.split(|b| *b == b' ').next().unwrap_or_default();
        let status = match status.len() {
            3 => number(status).and_then(|status| status.try_into().ok()).ok_or(BAD)?,
            _ => return Err(BAD),
        };
        Ok(Self { status, fields: Fields::read(&mut lines)? })
    }
}

/// The length of a head that is complete. `searched` bytes at its front are known to hold no end.
#[must_use]
pub fn end(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let mut at = from;
    while let Some(n) = bytes.get(at..)?.iter().position(|b| *b == b'\n') {
        at += n + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Lines that end with LF or CRLF.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|b| *b == b'\n').unwrap_or(self.0.len());
        let line = self.0.get(..end).unwrap_or_default();
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|n| *n <= i64::MAX as u64)
}

/// A byte of a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// A byte of a value; those above ASCII pass.
fn check_value(value: &[u8]) -> Result<(), Reject> {
    match value.iter().all(|b| !b.is_ascii_control() || *b == b'\t') {
        true => Ok(()),
        false => Err(BAD),
    }
}

fn is_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_heads() {
        for (text, at) in [
            ("a\r\n\r\nb", Some(5)),
            ("a\n\nb", Some(3)),
            ("a\nb\n\r\n", Some(6)),
            ("a\r\n\r", None),
            ("", None),
            ("a\r\nb", None),
        ] {
            assert_eq!(end(text.as_bytes(), 0), at, "{text:?}");
            // Whatever was searched before makes no difference.
            let found =
                (0..=text.len()).find_map(|n| end(&text.as_bytes()[..n], n.saturating_sub(1)));
            assert_eq!(found, at, "{text:?} byte by byte");
        }
    }

    #[test]
    fn requests() {
        let head = "GET /x?y HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nA: b \r\n c\r\n\r\n";
        let request = Request::parse(head.as_bytes()).unwrap();
        assert_eq!((request.method, request.minor, request.last), ("GET", 1, false));
        assert_eq!(request.uri.path.plain(), b"/x");
        assert_eq!(request.host.as_ref(), b"a");
        assert_eq!(request.fields.get("a"), b"b c");
        assert!(request.fields.has("connection", "upgrade"));
        assert!(!request.fields.is("connection", "upgrade"));
    }

    /// The answers are those of the reference.
    #[test]
    fn bad_requests() {
        let with = |line: &str, fields: &str| {
            Request::parse(format!("{line}\r\n{fields}\r\n").as_bytes()).map(|_| ()).unwrap_err()
        };
        let get = |fields: &str| with("GET / HTTP/1.1", fields);
        assert_eq!(get(""), reject(400, "missing required Host header"));
        assert_eq!(get("Host: a\r\nHost: a\r\n"), BAD);
        assert_eq!(get("Host: a b\r\n"), reject(400, "malformed Host header"));
        assert_eq!(get("Host: a\r\nbad\r\n"), BAD);
        assert_eq!(get("Host: a\r\nA : b\r\n"), reject(400, "invalid header name"));
        assert_eq!(get("Host: a\r\nA: b\x01\r\n"), BAD);
        assert_eq!(get("Host: a\r\nContent-Length: -1\r\n"), BAD);
        let te = get("Host: a\r\nTransfer-Encoding: foo\r\n");
        assert_eq!(te, reject(501, "Unsupported transfer encoding"));
        let new = with("GET / HTTP/2.0", "Host: a\r\n");
        assert_eq!(new, reject(505, "unsupported protocol version"));
        for line in ["", "GET", "GET /", "G@T / HTTP/1.1", "GET x HTTP/1.1", "GET / HTTP/1.10"] {
            assert_eq!(with(line, "Host: a\r\n"), BAD, "{line}");
        }
    }

    #[test]
    fn answers() {
        let response = Response::parse(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
        let response = response.unwrap();
        assert_eq!((response.status, response.fields.get("upgrade")), (101, &b"x"[..]));
        assert_eq!(Response::parse(b"HTTP/1.1 404\n\n").unwrap().status, 404);
        for bad in ["", "HTTP/2.0 101 x\n\n", "HTTP/1.1 10 x\n\n", "HTTP/1.1 1000\n\n"] {
            assert!(Response::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
