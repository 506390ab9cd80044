//! The proxy's view of a request: whom it is for, and how it is passed on.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::auth::basic;
use super::body::Body;
use super::head::{Fields, HeadError, MAX_FIELDS, put_field, put_number};
use crate::host::Target;
use crate::users::Authenticate;

/// A request that may go on.
#[derive(Debug)]
pub struct Incoming<'b> {
    /// Minor version, 0 or 1: HTTP/1.0 clients get no chunks and no second request.
    pub minor: u8,
    /// Whether the client may send another request afterwards.
    pub keep_alive: bool,
    /// The authenticated user.
    pub user: Option<Arc<str>>,
    /// First address of X-Forwarded-For: what rules see as the source, as in the reference.
    pub source: Option<IpAddr>,
    /// Where it goes.
    pub target: Target<'b>,
    /// How it goes there.
    pub kind: Kind,
}

/// What kind of request it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT: a tunnel. What follows the head is payload.
    Connect,
    /// Anything else, passed on. Its head for the origin was written to `out`.
    Forward {
        /// The body that follows.
        body: Body,
        /// HEAD: the response has no body whatever its head says.
        head_only: bool,
        /// May be sent again when a kept-alive connection turns out to be dead (RFC 9110 §9.2.2).
        idempotent: bool,
        /// Asks for another protocol: a 101 makes it a tunnel.
        upgrade: bool,
    },
}

/// Why a request is answered by the proxy itself. The connection is closed after the answer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// 400 or 431 or 501.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// 400: neither CONNECT nor an absolute URI with a host.
    #[error("not a proxy request")]
    Target,
    /// 400: a scheme that is no HTTP.
    #[error("unsupported scheme")]
    Scheme,
    /// 501: `https` needs TLS towards the origin.
    #[error("an https URI outside of CONNECT is not in this build")]
    Https,
    /// 407: wrong or no credentials. The name that was tried, if any.
    #[error("authentication failed{}", .0.as_deref().map_or(String::new(), |name| format!(", username={name:?}")))]
    Unauthorized(Option<String>),
}

impl Refusal {
    /// The complete answer.
    pub fn answer(&self) -> &'static [u8] {
        match self {
            Self::Head(HeadError::Malformed(_)) | Self::Target | Self::Scheme => {
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            Self::Head(HeadError::TooLarge) => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            Self::Head(HeadError::Coding) | Self::Https => {
                b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
            Self::Unauthorized(_) => {
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"crosspoint\", charset=\"UTF-8\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
        }
    }
}

/// Reads a complete request head (see [`find_head`](super::find_head)). For a request that is passed on, appends
/// the head for the origin to `out`. `users` is `None` where nobody has to log in.
///
/// # Errors
/// The request is refused: write [`Refusal::answer`] and close.
pub fn read_request<'b, A: Authenticate>(
    head: &'b [u8],
    users: Option<&A>,
    out: &mut Vec<u8>,
) -> Result<Incoming<'b>, Refusal> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    if request.parse_with_uninit_headers(head, &mut room).map_err(HeadError::from)?.is_partial() {
        return Err(HeadError::Malformed("incomplete").into());
    }
    let fields = Fields(request.headers);
    let (method, uri) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let minor = request.version.unwrap_or_default();

    let user = match users {
        None => None,
        Some(users) => {
            let value = fields.get("proxy-authorization").ok_or(Refusal::Unauthorized(None))?;
            Some(basic(value, users).map_err(Refusal::Unauthorized)?)
        }
    };
    let source = fields
        .list("x-forwarded-for")
        .find_map(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let incoming =
        |target, keep_alive, kind| Incoming { minor, keep_alive, user, source, target, kind };

    if method == "CONNECT" {
        // A client with a `path` option (ours, the reference's) sends that path and the target as Host.
        let authority = if uri.starts_with('/') {
            fields.get("host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default()
        } else {
            uri
        };
        let target = Target::parse_authority(authority, 80).ok_or(Refusal::Target)?;
        return Ok(incoming(target, false, Kind::Connect));
    }

    let uri = Uri::parse(uri)?;
    let body = fields.request_body(minor)?;
    // Two framings in one message are the mark of smuggling: no further request is read (RFC 9112 §6.3).
    let ambiguous = matches!(body, Body::Chunked(_)) && fields.get("content-length").is_some();
    let keep_alive = !fields.close(minor) && !ambiguous;
    let upgrade = minor == 1
        && fields.has_token("connection", "upgrade")
        && fields.get("upgrade").is_some_and(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"));
    emit_forward(method, &uri, fields, &body, upgrade, out);
    let kind = Kind::Forward {
        body,
        head_only: method == "HEAD",
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        upgrade,
    };
    Ok(incoming(uri.target, keep_alive, kind))
}

/// An absolute URI in its parts.
struct Uri<'b> {
    userinfo: Option<&'b str>,
    authority: &'b str,
    target: Target<'b>,
    /// Path and query; may be empty or start with `?`.
    rest: &'b str,
}

impl<'b> Uri<'b> {
    fn parse(uri: &'b str) -> Result<Self, Refusal> {
        let (scheme, rest) = uri.split_once("://").ok_or(Refusal::Target)?;
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        if is("https") || is("wss") {
            return Err(Refusal::Https);
        }
        if !is("http") && !is("ws") {
            return Err(Refusal::Scheme);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).ok_or(Refusal::Target)?;
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let target = Target::parse_authority(authority, 80).ok_or(Refusal::Target)?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _fragment)| rest);
        // An empty or default port is not part of the host that the origin sees.
        let authority = if target.port == 80 { strip_port(authority) } else { authority };
        Ok(Self { userinfo, authority, target, rest })
    }
}

fn strip_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

fn emit_forward(
    method: &str,
    uri: &Uri<'_>,
    fields: Fields<'_, '_>,
    body: &Body,
    upgrade: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    match uri.rest {
        // OPTIONS for the whole server has no path (RFC 9112 §3.2.4).
        "" if method == "OPTIONS" => out.push(b'*'),
        rest => {
            if !rest.starts_with('/') {
                out.push(b'/');
            }
            out.extend_from_slice(rest.as_bytes());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // The host is that of the URI, whatever the Host field says (RFC 9112 §3.2.2).
    put_field("Host", uri.authority.as_bytes(), out);
    for field in fields.0 {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if !fields.hop_by_hop(field.name) && !is("host") && !is("content-length") {
            put_field(field.name, field.value, out);
        }
    }
    if let (Some(userinfo), None) = (uri.userinfo, fields.get("authorization")) {
        let value = format!("Basic {}", STANDARD.encode(percent_decode(userinfo)));
        put_field("Authorization", value.as_bytes(), out);
    }
    match body {
        Body::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            put_number(*length, out);
            out.extend_from_slice(b"\r\n");
        }
        Body::Chunked(_) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Body::Empty if fields.get("content-length").is_some() => {
            out.extend_from_slice(b"Content-Length: 0\r\n")
        }
        Body::Empty | Body::UntilClose => {}
    }
    if upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        for value in fields.all("upgrade") {
            put_field("Upgrade", value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<2>().filter(|_| byte == b'%');
        let decoded = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
}
