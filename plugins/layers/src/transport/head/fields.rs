//! Header fields of options, and what servers believe of those of clients.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crosspoint_schema::decode::HeaderMap;

use super::parse::{Fields, is_token};

/// Fields of a head, sorted by name as the reference writes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(BTreeMap<String, Vec<String>>);

impl Headers {
    /// Names as they were written.
    pub(crate) fn raw(options: &HeaderMap) -> Self {
        Self::named(options, str::to_owned)
    }

    /// Names in the form in which they are common (`Content-Type`).
    pub(crate) fn canonical(options: &HeaderMap) -> Self {
        Self::named(options, canonical)
    }

    fn named(options: &HeaderMap, name: impl Fn(&str) -> String) -> Self {
        let mut headers = Self::default();
        for (key, value) in options.iter() {
            headers.0.entry(name(key)).or_default().push(value.to_owned());
        }
        headers
    }

    /// Takes all values of a name away, and returns the first one that is not empty.
    pub(crate) fn remove(&mut self, name: &str) -> Option<String> {
        let values = self.0.remove(name)?;
        values.into_iter().next().filter(|value| !value.is_empty())
    }

    /// The first value of a name.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    /// Sets the one value of a name.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), vec![value.to_owned()]);
    }

    /// Writes them, but for those of which `skip` says so. A name that is none is left out, and a line break in a value
    /// becomes a space, as the reference does it.
    pub(crate) fn emit(&self, out: &mut Vec<u8>, skip: impl Fn(&str) -> bool) {
        for (name, values) in &self.0 {
            if name.is_empty() || !name.bytes().all(is_token) || skip(name) {
                continue;
            }
            for value in values {
                emit_field(out, name, value);
            }
        }
    }
}

/// Writes one field.
pub(crate) fn emit_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend(name.as_bytes());
    out.extend(b": ");
    let breaks = |b: u8| if matches!(b, b'\r' | b'\n') { b' ' } else { b };
    let start = out.len();
    out.extend(value.bytes().map(breaks).skip_while(|b| matches!(b, b' ' | b'\t')));
    while out.len() > start && matches!(out.last(), Some(b' ' | b'\t')) {
        out.pop();
    }
    out.extend(b"\r\n");
}

/// The common form of a name: a capital letter at its beginning and behind each hyphen.
fn canonical(name: &str) -> String {
    if !name.bytes().all(is_token) {
        return name.to_owned();
    }
    let mut upper = true;
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        out.push(if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
        upper = c == '-';
    }
    out
}

/// Whether an answer has a field of that name anyway, or must not have one.
pub(crate) fn is_own_field(name: &str) -> bool {
    const OWN: [&str; 9] = [
        "Connection",
        "Content-Length",
        "Date",
        "Host",
        "Sec-Websocket-Accept",
        "Sec-Websocket-Extensions",
        "Sec-Websocket-Protocol",
        "Transfer-Encoding",
        "Upgrade",
    ];
    OWN.contains(&name)
}

/// The common form of a name of a field; nothing if it is none.
pub(crate) fn name(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(is_token)).then(|| canonical(text))
}

/// The client that a reverse proxy names: the first address of the first `X-Forwarded-For`, with the port of the
/// connection (sing, protocol/http: `SourceAddress`).
pub(crate) fn source(fields: &Fields<'_>, peer: SocketAddr) -> Option<SocketAddr> {
    forwarded(fields.get("x-forwarded-for"), peer)
}

/// The same by the value of that field.
pub(crate) fn forwarded(value: &[u8], peer: SocketAddr) -> Option<SocketAddr> {
    let named = std::str::from_utf8(value).ok()?;
    let address = |text: &str| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let (bare, zone) = bare.split_once('%').unwrap_or((bare, "-"));
        let ip: IpAddr = bare.parse().ok()?;
        (zone == "-" || !zone.is_empty() && ip.is_ipv6()).then_some(ip)
    };
    let ip = named.split(',').find_map(address)?;
    Some(SocketAddr::new(ip.to_canonical(), peer.port()))
}

#[cfg(test)]
mod tests {
    use crosspoint_schema::decode::Listable;

    use super::*;
    use crate::transport::head::parse::Request;

    #[test]
    fn headers_are_sorted_and_cleaned() {
        let mut options = HeaderMap::default();
        for (name, value) in [("x-b", "1"), ("X-A", " v\nw "), ("a b", "no"), ("host", "h")] {
            options.0.insert(name.to_owned(), Listable(vec![value.to_owned()]));
        }
        let mut out = Vec::new();
        let mut headers = Headers::canonical(&options);
        assert_eq!(headers.remove("Host").as_deref(), Some("h"));
        headers.emit(&mut out, |_| false);
        assert_eq!(out, b"X-A: v w\r\nX-B: 1\r\n");
        out.clear();
        Headers::raw(&options).emit(&mut out, |name| name == "host");
        assert_eq!(out, b"X-A: v w\r\nx-b: 1\r\n");
    }

    #[test]
    fn who_a_reverse_proxy_names() {
        let peer = "127.0.0.1:7".parse().unwrap();
        let named = |value: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {value}\r\n\r\n");
            source(&Request::parse(head.as_bytes()).unwrap().fields, peer).map(|to| to.to_string())
        };
        assert_eq!(named("192.0.2.1, 192.0.2.2").as_deref(), Some("192.0.2.1:7"));
        assert_eq!(named("unknown,192.0.2.2").as_deref(), Some("192.0.2.2:7"));
        // Go does not trim.
        assert_eq!(named("unknown, 192.0.2.2"), None);
        assert_eq!(named("[2001:db8::1]").as_deref(), Some("[2001:db8::1]:7"));
        assert_eq!(named("fe80::1%eth0").as_deref(), Some("[fe80::1]:7"));
        assert_eq!(named("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1:7"));
        assert_eq!(named(""), None);
    }
}
