//! What request and response heads have in common: where they end, their fields, what is hop-by-hop.

use httparse::Header;
use thiserror::Error;

use super::body::{Body, Chunks};

/// Largest head in bytes, request or status line included.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most fields in a head.
pub(super) const MAX_FIELDS: usize = 128;

/// A head that cannot be used.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Over [`MAX_HEAD`] bytes or too many fields.
    #[error("header too large")]
    TooLarge,
    /// Not HTTP/1.
    #[error("malformed header: {0}")]
    Malformed(&'static str),
    /// A transfer coding other than chunked.
    #[error("unsupported transfer coding")]
    Coding,
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLarge,
            httparse::Error::Version => Self::Malformed("not HTTP/1"),
            httparse::Error::HeaderName => Self::Malformed("field name"),
            httparse::Error::HeaderValue => Self::Malformed("field value"),
            httparse::Error::Status => Self::Malformed("status"),
            httparse::Error::NewLine => Self::Malformed("line end"),
            httparse::Error::Token => Self::Malformed("not an HTTP message"),
        }
    }
}

/// Length of the head at the front of `buffer`, the empty line included; `None` when it is not complete.
/// `searched` bytes at the front were looked at before, so that a head arriving byte by byte is read once.
///
/// # Errors
/// The head is longer than [`MAX_HEAD`].
pub fn find_head(buffer: &[u8], searched: usize) -> Result<Option<usize>, HeadError> {
    // Empty lines before a request are to be ignored (RFC 9112 §2.2).
    let blank = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let mut at = blank.max(searched.saturating_sub(3));
    while let Some(rest) = buffer.get(at..) {
        let Some(newline) = rest.iter().position(|&b| b == b'\n') else { break };
        at += newline + 1;
        let end = match buffer.get(at..).unwrap_or_default() {
            [b'\n', ..] => at + 1,
            [b'\r', b'\n', ..] => at + 2,
            _ => continue,
        };
        return if end > MAX_HEAD { Err(HeadError::TooLarge) } else { Ok(Some(end)) };
    }
    if buffer.len() >= MAX_HEAD { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Whether `buffer` can be the start of a request: a method of token characters and a blank. Lets a listener close
/// on garbage at once instead of waiting for the end of a line that never comes.
pub fn plausible_request(buffer: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let start = buffer.iter().skip_while(|b| matches!(b, b'\r' | b'\n'));
    start.take(32).take_while(|&&b| b != b' ').all(token)
        && (buffer.len() < 64 || buffer.contains(&b' '))
}

/// The fields of a head.
#[derive(Clone, Copy)]
pub(super) struct Fields<'h, 'b>(pub(super) &'h [Header<'b>]);

/// Fields that concern one connection only and are never passed on (RFC 9110 §7.6.1 and what came before it).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

impl<'h, 'b> Fields<'h, 'b> {
    /// Values of every field of that name.
    pub(super) fn all(self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + use<'h, 'b> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// The first field of that name.
    pub(super) fn get(self, name: &'static str) -> Option<&'b [u8]> {
        self.all(name).next()
    }

    /// Elements of the comma-separated lists in fields of that name, trimmed, empty ones left out.
    pub(super) fn list(self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + use<'h, 'b> {
        let elements = self.all(name).flat_map(|value| value.split(|&b| b == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Whether such a list has `token`.
    pub(super) fn has_token(self, name: &'static str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether the peer wants the connection closed after this message.
    pub(super) fn close(self, minor: u8) -> bool {
        minor == 0
            || self.has_token("connection", "close")
            || self.has_token("proxy-connection", "close")
    }

    /// Whether a field is meant for this connection only. Host and Content-Length are not, whatever
    /// Connection says: dropping them would change the message.
    pub(super) fn hop_by_hop(self, name: &str) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if HOP_BY_HOP.into_iter().any(is) {
            return true;
        }
        self.list("connection").any(|element| name.as_bytes().eq_ignore_ascii_case(element))
            && !is("host")
            && !is("content-length")
    }

    /// The one value of Content-Length. Repeated equal values are one value (RFC 9112 §6.3).
    pub(super) fn content_length(self) -> Result<Option<u64>, HeadError> {
        let mut length = None;
        for value in self
            .all("content-length")
            .flat_map(|value| value.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
        {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let parsed = std::str::from_utf8(value)
                .ok()
                .filter(|_| digits)
                .and_then(|text| text.parse().ok());
            match (parsed, length) {
                (Some(new), None) => length = Some(new),
                (Some(new), Some(old)) if new == old => {}
                _ => return Err(HeadError::Malformed("content length")),
            }
        }
        Ok(length)
    }

    /// The framing of a request's body.
    pub(super) fn request_body(self, minor: u8) -> Result<Body, HeadError> {
        let mut codings = self.list("transfer-encoding").peekable();
        if codings.peek().is_none() {
            return Ok(match self.content_length()? {
                None | Some(0) => Body::Empty,
                Some(length) => Body::Length(length),
            });
        }
        if minor == 0 {
            return Err(HeadError::Malformed("transfer coding in HTTP/1.0"));
        }
        // Content-Length beside it does not count (RFC 9112 §6.3) and is not passed on.
        if codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
            && codings.next().is_none()
        {
            return Ok(Body::Chunked(Chunks::default()));
        }
        Err(HeadError::Coding)
    }

    /// The framing of a response's body, for a status and request that have one.
    pub(super) fn response_body(self) -> Result<Body, HeadError> {
        match self.list("transfer-encoding").last() {
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Body::Chunked(Chunks::default()))
            }
            Some(_) => Ok(Body::UntilClose),
            None => Ok(match self.content_length()? {
                None => Body::UntilClose,
                Some(0) => Body::Empty,
                Some(length) => Body::Length(length),
            }),
        }
    }
}

/// Writes one field. Line folds of old servers become blanks.
pub(super) fn put_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.iter().map(|&b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// Writes a decimal number.
pub(super) fn put_number(number: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a Vec does not fail.
    let _ = write!(out, "{number}");
}
