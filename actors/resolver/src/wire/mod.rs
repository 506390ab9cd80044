//! DNS messages read and patched by hand (RFC 1035 §4.1, RFC 6891 §6.1): what the path of a cached answer needs, without
//! an owned message. Everything is bounds-checked; a message that is broken is refused, never guessed at.

mod answer;
mod query;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use answer::{Answer, Reply, Shared, has_hints};
pub use query::{Malformed, Query, Subnet};

/// Length of the header.
pub(crate) const HEADER: usize = 12;
/// Longest name on the wire, with the final root label (RFC 1035 §2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// What we can take over UDP, told in OPT records of our own (the value of the DNS flag day 2020).
pub(crate) const UDP_SIZE: u16 = 1232;

pub(crate) const A: u16 = 1;
pub(crate) const SOA: u16 = 6;
pub(crate) const AAAA: u16 = 28;
pub(crate) const OPT: u16 = 41;
pub(crate) const SVCB: u16 = 64;
pub(crate) const HTTPS: u16 = 65;
/// TSIG and SIG(0): what signs a message, which then cannot be changed.
pub(crate) const SIGNATURES: [u16; 2] = [250, 24];

pub(crate) const IN: u16 = 1;

/// The code of a query that policy refuses.
pub(crate) const REFUSED: u16 = 5;

/// EDNS options (IANA): client subnet, and extended errors.
pub(crate) const OPTION_SUBNET: u16 = 8;
pub(crate) const OPTION_ERROR: u16 = 15;
/// Options between neighbours only, which do not change an answer: cookie, keep-alive, padding.
pub(crate) const OPTIONS_OF_HOP: [u16; 3] = [10, 11, 12];

/// The bit "DNSSEC OK" in the TTL field of an OPT record.
pub(crate) const DNSSEC_OK: u32 = 0x8000;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// Overwrites bytes that are there.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

/// Where the name at `at` ends: behind its root label or its pointer.
pub(crate) fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + length,
            3 => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > MAX_NAME {
            return None;
        }
    }
}

/// The name at `at` as text, without the final dot; the root is `.`. Letters keep their case.
pub(crate) fn read_name(bytes: &[u8], mut at: usize) -> Option<String> {
    let mut out = String::new();
    let mut length_left = MAX_NAME;
    // A name has at most 127 labels, each of which may stand behind a pointer.
    for _ in 0..256 {
        let length = usize::from(*bytes.get(at)?);
        match length >> 6 {
            0 if length == 0 => {
                if out.is_empty() {
                    out.push('.');
                }
                return Some(out);
            }
            0 => {
                if !out.is_empty() {
                    out.push('.');
                }
                push_label(&mut out, bytes.get(at + 1..at + 1 + length)?);
                at += 1 + length;
                length_left = length_left.checked_sub(1 + length)?;
            }
            3 => {
                let to = usize::from(u16_at(bytes, at)? & 0x3fff);
                // Pointers lead back, so that there is an end.
                at = Some(to).filter(|to| *to < at)?;
            }
            _ => return None,
        }
    }
    None
}

/// Escapes what is special in a name (RFC 1035 §5.1), as the reference prints it.
pub(crate) fn push_label(out: &mut String, label: &[u8]) {
    for &byte in label {
        match byte {
            b'.' | b' ' | b'\'' | b'@' | b';' | b'(' | b')' | b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'!'..=b'~' => out.push(char::from(byte)),
            other => {
                out.push('\\');
                out.extend(
                    [other / 100, other / 10 % 10, other % 10].map(|d| char::from(b'0' + d)),
                );
            }
        }
    }
}

/// One resource record of a message, by its places.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl_at: usize,
    pub(crate) ttl: u32,
    pub(crate) data: Range<usize>,
}

/// The record at `at`.
pub(crate) fn record(bytes: &[u8], start: usize) -> Option<Record> {
    let at = skip_name(bytes, start)?;
    let length = usize::from(u16_at(bytes, at + 8)?);
    let data = at + 10..at + 10 + length;
    bytes.get(data.clone())?;
    Some(Record {
        start,
        rtype: u16_at(bytes, at)?,
        class: u16_at(bytes, at + 2)?,
        ttl_at: at + 4,
        ttl: u32_at(bytes, at + 4)?,
        data,
    })
}

/// The options in the data of an OPT record: code and value.
pub(crate) fn options(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, length) = (u16_at(data, 0)?, usize::from(u16_at(data, 2)?));
        let value = data.get(4..4 + length)?;
        data = data.get(4 + length..)?;
        Some((code, value))
    })
}

/// Appends one option.
pub(crate) fn push_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    out.extend(code.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(value);
}

/// Appends an OPT record (RFC 6891 §6.1.2) to the message that begins at `start`, and counts it.
pub(crate) fn push_opt(out: &mut Vec<u8>, start: usize, size: u16, flags: u32, options: &[u8]) {
    let (Ok(length), Some(count)) = (u16::try_from(options.len()), u16_at(out, start + 10)) else {
        return;
    };
    out.extend([0]);
    out.extend(OPT.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(options);
    put(out, start + 10, &count.saturating_add(1).to_be_bytes());
}

/// A query for `name` (without final dot, as it is on the wire: no escapes, no punycode), with recursion desired. `None`
/// where that is no name.
pub(crate) fn question(name: &str, qtype: u16) -> Option<Vec<u8>> {
    let mut out = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    if name != "." {
        for label in name.split('.') {
            let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
            out.push(length);
            out.extend(label.as_bytes());
        }
    }
    out.push(0);
    if out.len() - HEADER > MAX_NAME {
        return None;
    }
    out.extend(qtype.to_be_bytes());
    out.extend(IN.to_be_bytes());
    Some(out)
}

/// What a client that has sent `query` is told when a server says `answer` and `ttl` seconds are left of it; `None` where
/// either is broken. The whole path of a cached answer, for tests.
#[doc(hidden)]
pub fn told(query: &[u8], answer: Vec<u8>, ttl: u32) -> Option<Vec<u8>> {
    let query = Query::parse(query).ok()?;
    let mut answer = Answer::read(answer, &query).ok()?;
    let _ = (answer.rcode(), answer.is_truncated());
    answer.keep_hints(crosspoint_kernel::resolve::Family::V4);
    let kept = answer.ttl();
    answer.set_ttl(kept);
    let reply = answer.into_reply(&query, kept, false);
    let _ = reply.owners();
    let mut out = Vec::new();
    reply.render(&query, ttl, &mut out);
    Some(out)
}
