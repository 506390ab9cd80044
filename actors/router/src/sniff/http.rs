//! HTTP/1.x requests (RFC 9112): the whole header section, then the host.
//!
//! The preface of HTTP/2 reads as a request without headers and counts as HTTP without a host.

use std::net::Ipv6Addr;

use super::{Outcome, Sniffed, Sniffer};

/// Methods that a request line cut short may still turn into; a whole line may have any method.
const METHODS: [&str; 27] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MKCALENDAR",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "NOTIFY",
    "M-SEARCH",
    "PURGE",
    "MERGE",
    "BIND",
];
/// A request line longer than this without an end is not waited for.
const MAX_LINE: usize = 16 << 10;

/// Looks for a request.
pub(super) fn sniff(buf: &[u8]) -> Outcome {
    let Some((line, mut rest)) = split_line(buf) else {
        return if may_become_request(buf) { Outcome::NeedMore } else { Outcome::NoMatch };
    };
    let Some((target, authority_form)) = request_line(line) else {
        return Outcome::NoMatch;
    };
    let Some(from_target) = target_host(target, authority_form) else {
        return Outcome::NoMatch;
    };
    let mut host_header = None;
    let mut first = true;
    loop {
        let Some((line, next)) = split_line(rest) else {
            return Outcome::NeedMore;
        };
        rest = next;
        if line.is_empty() {
            break;
        }
        let continues = line.starts_with(b" ") || line.starts_with(b"\t");
        if continues && !first {
            continue; // an obsolete line folding: nothing of use for the host
        }
        let Some((name, value)) = header(line) else {
            return Outcome::NoMatch;
        };
        if name.eq_ignore_ascii_case(b"host") && host_header.replace(value).is_some() {
            return Outcome::NoMatch; // ambiguous, as servers see it as well
        }
        first = false;
    }
    let host = if from_target.is_empty() { host_header.unwrap_or_default() } else { from_target };
    Outcome::Match(Sniffed { domain: domain(host), ..Sniffed::bare(Sniffer::Http) })
}

/// Splits off a line, its end (LF or CR LF) removed; `None` when its end is not there yet.
fn split_line(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', buf)?;
    let line = buf.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), buf.get(end + 1..)?))
}

fn memchr(byte: u8, buf: &[u8]) -> Option<usize> {
    buf.iter().position(|it| *it == byte)
}

fn split_space(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr(b' ', buf)?;
    Some((buf.get(..at)?, buf.get(at + 1..)?))
}

/// The target of a request line, and whether it is an authority (CONNECT); `None` when the line is none.
fn request_line(line: &[u8]) -> Option<(&[u8], bool)> {
    let (method, rest) = split_space(line)?;
    let (target, version) = split_space(rest)?;
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || !is_target(target) {
        return None;
    }
    let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else {
        return None;
    };
    (major.is_ascii_digit() && minor.is_ascii_digit())
        .then(|| (target, method == b"CONNECT" && !target.starts_with(b"/")))
}

/// Whether a first line that is not whole yet can become a request line.
fn may_become_request(partial: &[u8]) -> bool {
    if partial.len() > MAX_LINE {
        return false;
    }
    let Some((method, rest)) = split_space(partial) else {
        return METHODS.iter().any(|method| method.as_bytes().starts_with(partial));
    };
    if !METHODS.iter().any(|known| known.as_bytes() == method) {
        return false;
    }
    match split_space(rest) {
        None => rest.is_empty() || is_target(rest),
        Some((target, version)) => {
            let version = version.strip_suffix(b"\r").unwrap_or(version);
            is_target(target)
                && version.len() <= 8
                && version.iter().zip(b"HTTP/0.0").all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    _ => byte == form,
                })
        }
    }
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && !target.iter().any(u8::is_ascii_control)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Name and value of a header line; `None` when it is malformed.
fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
    // A space in the name is refused by servers, but the reference takes it; not as the first byte of the first line.
    let named = !name.is_empty() && name.iter().all(|byte| is_token(*byte) || *byte == b' ');
    let valued = !value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    (named && valued && !name.starts_with(b" ")).then(|| (name, value.trim_ascii()))
}

/// The host (with port) that a request target names: empty if it names none, `None` if it is no target.
fn target_host(target: &[u8], authority_form: bool) -> Option<&[u8]> {
    if authority_form {
        return Some(authority(target));
    }
    if target.starts_with(b"/") || target == b"*" {
        return Some(&[]);
    }
    let colon = memchr(b':', target)?;
    let (scheme, rest) = (target.get(..colon)?, target.get(colon + 1..)?);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    is_scheme.then(|| rest.strip_prefix(b"//").map_or(&[][..], authority))
}

/// The host and port of an authority: what comes before path and query, user information removed.
fn authority(rest: &[u8]) -> &[u8] {
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
    match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => authority.get(at + 1..).unwrap_or_default(),
        None => authority,
    }
}

/// A host without its port, IPv6 addresses without brackets and in canonical form; `None` when empty or no text.
fn domain(host: &[u8]) -> Option<Box<str>> {
    let host = std::str::from_utf8(host).ok()?;
    let name = if let Some((inner, after)) = host.strip_prefix('[').and_then(|h| h.split_once(']'))
    {
        if after.is_empty() || after.starts_with(':') { inner } else { host }
    } else {
        match host.split_once(':') {
            // More than one colon without brackets: no port can be told apart.
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        }
    };
    if name.contains(':')
        && let Ok(address) = name.parse::<Ipv6Addr>()
    {
        return Some(address.to_string().into());
    }
    (!name.is_empty()).then(|| name.into())
}
