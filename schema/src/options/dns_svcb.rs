//! The data of SVCB and HTTPS records in text form (RFC 9460 §2.1 and appendix A).

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Names of the parameters with a number below their count.
const KEYS: [&str; 9] = [
    "mandatory",
    "alpn",
    "no-default-alpn",
    "port",
    "ipv4hint",
    "ech",
    "ipv6hint",
    "dohpath",
    "ohttp",
];

fn key_number(name: &str) -> Option<u16> {
    match KEYS.iter().position(|key| *key == name) {
        Some(at) => u16::try_from(at).ok(),
        None => name.strip_prefix("key")?.parse().ok(),
    }
}

fn key_name(number: u16) -> String {
    KEYS.get(usize::from(number)).map_or_else(|| format!("key{number}"), |name| (*name).to_owned())
}

/// Encodes the parameters `(name, value)`, in the order of their numbers. `None` where one is wrong or there twice.
pub(super) fn encode(params: &[(String, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for (name, value) in params {
        encoded.push((key_number(name)?, encode_value(key_number(name)?, value)?));
    }
    encoded.sort();
    if encoded.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
        return None;
    }
    let mut out = Vec::new();
    for (key, value) in encoded {
        out.extend(key.to_be_bytes());
        out.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
        out.extend(value);
    }
    Some(out)
}

fn encode_value(key: u16, value: &[u8]) -> Option<Vec<u8>> {
    let text = || std::str::from_utf8(value).ok();
    let mut out = Vec::new();
    match key {
        0 => {
            for name in text()?.split(',') {
                out.extend(key_number(name)?.to_be_bytes());
            }
        }
        1 => {
            for id in value.split(|byte| *byte == b',') {
                out.push(u8::try_from(id.len()).ok().filter(|length| *length > 0)?);
                out.extend(id);
            }
        }
        2 | 8 if !value.is_empty() => return None,
        3 => out.extend(text()?.parse::<u16>().ok()?.to_be_bytes()),
        4 => {
            for ip in text()?.split(',') {
                out.extend(ip.parse::<Ipv4Addr>().ok()?.octets());
            }
        }
        5 => out = STANDARD.decode(value).ok()?,
        6 => {
            for ip in text()?.split(',') {
                out.extend(ip.parse::<Ipv6Addr>().ok()?.octets());
            }
        }
        _ => out.extend(value),
    }
    Some(out)
}

/// The parameters `(name, value)` of a wire form; `None` where it is broken.
pub(super) fn decode(mut wire: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    while !wire.is_empty() {
        let (head, rest) = wire.split_at_checked(4)?;
        let &[k0, k1, l0, l1] = head else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        let key = u16::from_be_bytes([k0, k1]);
        out.push((key_name(key), decode_value(key, value)?));
        wire = rest;
    }
    Some(out)
}

fn decode_value(key: u16, value: &[u8]) -> Option<Vec<u8>> {
    let words = |words: Vec<String>| words.join(",").into_bytes();
    let number = |pair: &[u8]| Some(u16::from_be_bytes(pair.try_into().ok()?));
    Some(match key {
        0 => words(value.chunks(2).map(|pair| number(pair).map(key_name)).collect::<Option<_>>()?),
        1 => {
            let (mut rest, mut ids) = (value, Vec::new());
            while let Some((&length, tail)) = rest.split_first() {
                let (id, tail) = tail.split_at_checked(usize::from(length))?;
                ids.push(id);
                rest = tail;
            }
            ids.join(&b',')
        }
        3 => number(value)?.to_string().into_bytes(),
        4 => {
            let ip =
                |octets: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).to_string());
            words(value.chunks(4).map(ip).collect::<Option<_>>()?)
        }
        5 => STANDARD.encode(value).into_bytes(),
        6 => {
            let ip = |octets: &[u8]| {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_string())
            };
            words(value.chunks(16).map(ip).collect::<Option<_>>()?)
        }
        _ => value.to_vec(),
    })
}
