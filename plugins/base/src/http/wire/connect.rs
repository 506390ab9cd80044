//! The client side: asking a proxy for a tunnel.

use std::fmt::Write as _;
use std::mem::MaybeUninit;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::head::{HeadError, MAX_FIELDS, find_head, put_field};
use crate::host::{Host, Target};

/// What every CONNECT of an outbound has in common.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions<'a> {
    /// Name to log in with; empty for none.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
    /// Request path instead of the target; the target is in the Host field then. Empty for none.
    pub path: &'a str,
    /// Additional fields.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// A path with a broken percent escape.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("invalid URL escape in path {0:?}")]
pub struct PathError(pub String);

/// Why there is no tunnel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConnectError {
    /// `path` and a Host field in `headers` exclude each other, unless that Host is the target's.
    #[error("Host header and path are not allowed at the same time")]
    HostAndPath,
    /// The proxy speaks no HTTP.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// 407.
    #[error("authentication required")]
    Unauthorized,
    /// 405.
    #[error("method not allowed")]
    Method,
    /// Another status.
    #[error("unexpected status: {0}")]
    Status(u16),
}

/// A CONNECT request, ready but for its target.
#[derive(Clone, Debug)]
pub struct Connect {
    path: Box<str>,
    /// A Host field of the options.
    host: Option<Box<str>>,
    /// User-Agent and all other fields, and the empty line.
    rest: Box<[u8]>,
}

impl Connect {
    /// Prepares the constant part.
    ///
    /// # Errors
    /// The path cannot be written.
    pub fn new(options: &ConnectOptions<'_>) -> Result<Self, PathError> {
        let mut host = None;
        let mut agent = None;
        let mut fields = vec![("Proxy-Connection".to_owned(), "Keep-Alive".to_owned())];
        let mut named = Vec::new();
        for &(name, value) in &options.headers {
            let name = canonical(name);
            match name.as_str() {
                "Host" if value.is_empty() => {}
                "Host" => drop(host.get_or_insert_with(|| Box::<str>::from(value))),
                "User-Agent" => drop(agent.get_or_insert(value)),
                // The message has no body.
                "Content-Length" | "Transfer-Encoding" | "Trailer" => {}
                _ if !is_token(&name) => {}
                _ => {
                    // A field of the options takes the place of ours, but Proxy-Authorization, which adds up.
                    if !named.contains(&name) {
                        fields.retain(|(other, _)| *other != name);
                        named.push(name.clone());
                    }
                    fields.push((name, value.trim().to_owned()));
                }
            }
        }
        if !options.username.is_empty() {
            let pair = STANDARD.encode(format!("{}:{}", options.username, options.password));
            fields.push(("Proxy-Authorization".to_owned(), format!("Basic {pair}")));
        }
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut rest = Vec::new();
        // The reference's default. An empty User-Agent in the options means none.
        match agent.unwrap_or("Go-http-client/1.1") {
            "" => {}
            agent => put_field("User-Agent", agent.as_bytes(), &mut rest),
        }
        for (name, value) in fields {
            put_field(&name, value.as_bytes(), &mut rest);
        }
        rest.extend_from_slice(b"\r\n");
        Ok(Self { path: escape_path(options.path)?.into(), host, rest: rest.into() })
    }

    /// Appends the request for `target`.
    ///
    /// # Errors
    /// [`ConnectError::HostAndPath`].
    pub fn emit(&self, target: &Target<'_>, out: &mut Vec<u8>) -> Result<(), ConnectError> {
        let named = |host: &str| matches!(target.host, Host::Name(name) if name == host);
        let host = self.host.as_deref().filter(|host| !named(host));
        if host.is_some() && !self.path.is_empty() {
            return Err(ConnectError::HostAndPath);
        }
        let address = target.to_string();
        out.extend_from_slice(b"CONNECT ");
        out.extend_from_slice(if self.path.is_empty() {
            address.as_bytes()
        } else {
            self.path.as_bytes()
        });
        out.extend_from_slice(b" HTTP/1.1\r\n");
        put_field("Host", host.unwrap_or(&address).as_bytes(), out);
        out.extend_from_slice(&self.rest);
        Ok(())
    }
}

/// Reads the proxy's answer: `Some(n)` when the tunnel stands and its payload starts at byte `n`, `None` when more
/// input is needed. `searched` as in [`find_head`].
///
/// # Errors
/// There is no tunnel.
pub fn read_connect_answer(input: &[u8], searched: usize) -> Result<Option<usize>, ConnectError> {
    let mut used = 0;
    loop {
        let rest = input.get(used..).unwrap_or_default();
        let Some(len) = find_head(rest, searched.saturating_sub(used))? else {
            // Something that is no HTTP at all need not be waited for.
            let known = rest.iter().zip(b"HTTP/1.").all(|(a, b)| a == b);
            return if known {
                Ok(None)
            } else {
                Err(HeadError::Malformed("not an HTTP message").into())
            };
        };
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        let head = rest.get(..len).unwrap_or_default();
        if config
            .parse_response_with_uninit_headers(&mut response, head, &mut room)
            .map_err(HeadError::from)?
            .is_partial()
        {
            return Err(HeadError::Malformed("incomplete").into());
        }
        used += len;
        match response.code.unwrap_or_default() {
            // Interim responses may precede the answer (RFC 9110 §15.2).
            100 | 102..=199 => {}
            200..=299 => return Ok(Some(used)),
            407 => return Err(ConnectError::Unauthorized),
            405 => return Err(ConnectError::Method),
            code => return Err(ConnectError::Status(code)),
        }
    }
}

/// A field name in the usual case: `x-foo` becomes `X-Foo`.
fn canonical(name: &str) -> String {
    let mut start = true;
    let case = |c: char| {
        let c = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        start = c == '-';
        c
    };
    if is_token(name) { name.chars().map(case).collect() } else { name.to_owned() }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The path as it goes over the wire: as given when it is a valid path already, otherwise escaped.
fn escape_path(path: &str) -> Result<String, PathError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    let bytes = path.as_bytes();
    let (mut decoded, mut valid, mut at) = (Vec::with_capacity(bytes.len()), true, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let digits = bytes.get(at + 1..at + 3).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
            let value = digits
                .and_then(|d| std::str::from_utf8(d).ok())
                .and_then(|d| u8::from_str_radix(d, 16).ok());
            decoded.push(value.ok_or_else(|| PathError(path.to_owned()))?);
            at += 3;
        } else {
            valid &= plain(byte) || b"!'()*[]".contains(&byte);
            decoded.push(byte);
            at += 1;
        }
    }
    if valid {
        return Ok(path.to_owned());
    }
    let mut out = String::with_capacity(path.len());
    for byte in decoded {
        if plain(byte) {
            out.push(byte.into());
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Ok(out)
}
