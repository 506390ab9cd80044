//! The proxy's view of a response, and the responses it gives by itself.

use std::mem::MaybeUninit;

use thiserror::Error;

use super::body::Body;
use super::head::{Fields, HeadError, MAX_FIELDS, put_field, put_number};

/// What must be known of the request to read its response.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Minor version of the client.
    pub minor: u8,
    /// Whether the client may send another request.
    pub keep_alive: bool,
    /// The request was HEAD.
    pub head_only: bool,
    /// The request asked for another protocol.
    pub upgrade: bool,
}

/// A response whose head for the client was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// 1xx: the real response is still to come.
    Interim,
    /// 101: both directions are a tunnel from here on.
    Switched,
    /// The response.
    Final {
        /// The body that follows.
        body: Body,
        /// The client cannot read chunks: pass on the payload only.
        dechunk: bool,
        /// The client's connection stays open afterwards.
        keep_client: bool,
        /// The origin's connection can take another request afterwards.
        keep_origin: bool,
    },
}

/// A response that cannot be passed on.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AnswerError {
    /// Not a response head.
    #[error("malformed response: {0}")]
    Head(#[from] HeadError),
    /// 101 that nobody asked for.
    #[error("unexpected protocol switch")]
    Switch,
}

/// Reads a complete response head and appends the head for the client to `out`.
///
/// # Errors
/// The origin speaks no HTTP; `out` is unchanged.
pub fn read_response(
    head: &[u8],
    exchange: &Exchange,
    out: &mut Vec<u8>,
) -> Result<Answer, AnswerError> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    let parsed = config
        .parse_response_with_uninit_headers(&mut response, head, &mut room)
        .map_err(HeadError::from)?;
    if parsed.is_partial() {
        return Err(HeadError::Malformed("incomplete").into());
    }
    let (minor, code) = (response.version.unwrap_or_default(), response.code.unwrap_or_default());
    let fields = Fields(response.headers);
    let line = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"HTTP/1.1 ");
        put_number(code.into(), out);
        out.push(b' ');
        out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
    };

    if code == 101 {
        if !exchange.upgrade {
            return Err(AnswerError::Switch);
        }
        line(out);
        for field in fields.0 {
            if !fields.hop_by_hop(field.name) || field.name.eq_ignore_ascii_case("upgrade") {
                put_field(field.name, field.value, out);
            }
        }
        out.extend_from_slice(b"Connection: Upgrade\r\n\r\n");
        return Ok(Answer::Switched);
    }
    if (100..200).contains(&code) {
        // HTTP/1.0 has no interim responses.
        if exchange.minor == 1 {
            line(out);
            put_end_to_end(fields, out);
            out.extend_from_slice(b"\r\n");
        }
        return Ok(Answer::Interim);
    }

    let bodiless = exchange.head_only || matches!(code, 204 | 304);
    let length = fields.content_length()?;
    let body = if bodiless { Body::Empty } else { fields.response_body()? };
    let dechunk = matches!(body, Body::Chunked(_)) && exchange.minor == 0;
    let keep_client = exchange.keep_alive && !dechunk && body != Body::UntilClose;
    let keep_origin = !fields.close(minor) && body != Body::UntilClose;
    line(out);
    put_end_to_end(fields, out);
    if let Some(length) =
        length.filter(|_| bodiless || matches!(body, Body::Empty | Body::Length(_)))
    {
        out.extend_from_slice(b"Content-Length: ");
        put_number(length, out);
        out.extend_from_slice(b"\r\n");
    }
    // Codings below the chunks (old gzip, say) go to the client with them.
    if (matches!(body, Body::Chunked(_)) && !dechunk)
        || (body == Body::UntilClose && exchange.minor == 1)
    {
        for coding in fields.all("transfer-encoding") {
            put_field("Transfer-Encoding", coding, out);
        }
    }
    // The words of the reference, for clients that still look at them.
    out.extend_from_slice(if keep_client {
        b"Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nKeep-Alive: timeout=4\r\n\r\n"
    } else {
        b"Connection: close\r\n\r\n"
    });
    Ok(Answer::Final { body, dechunk, keep_client, keep_origin })
}

/// All fields but those of one hop and the framing.
fn put_end_to_end(fields: Fields<'_, '_>, out: &mut Vec<u8>) {
    for field in fields.0 {
        if !fields.hop_by_hop(field.name) && !field.name.eq_ignore_ascii_case("content-length") {
            put_field(field.name, field.value, out);
        }
    }
}

/// Why the proxy answers instead of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 403: a rule or a blocking outbound.
    Forbidden,
    /// 502: the origin cannot be reached or speaks no HTTP.
    BadGateway,
    /// 503: the outbound is down.
    Unavailable,
    /// 504: no answer in time.
    Timeout,
}

impl Status {
    /// Appends the complete answer.
    pub fn emit(self, keep_alive: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Forbidden => b"HTTP/1.1 403 Forbidden\r\n",
            Self::BadGateway => b"HTTP/1.1 502 Bad Gateway\r\n",
            Self::Unavailable => b"HTTP/1.1 503 Service Unavailable\r\n",
            Self::Timeout => b"HTTP/1.1 504 Gateway Timeout\r\n",
        });
        out.extend_from_slice(if keep_alive {
            b"Content-Length: 0\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\nKeep-Alive: timeout=4\r\n\r\n"
        } else {
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        });
    }
}

/// The answer to a CONNECT that succeeded, in the client's version.
pub(crate) fn established(minor: u8) -> &'static [u8] {
    if minor == 0 {
        b"HTTP/1.0 200 Connection established\r\n\r\n"
    } else {
        b"HTTP/1.1 200 Connection established\r\n\r\n"
    }
}
