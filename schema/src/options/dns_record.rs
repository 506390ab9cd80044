//! Fixed DNS records: lines of a zone file (RFC 1035 §5, RFC 3597 §5), or base64 of the wire form.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::ConfigError;
use crate::decode::{Cursor, Field, quote as go_quote};
use crate::json_schema::SchemaBuilder;
use crate::options::{QueryType, dns_svcb};

/// One resource record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Owner name in wire form, uncompressed; a label `*` stands for the name of the query.
    pub owner: Vec<u8>,
    /// Type.
    pub rtype: QueryType,
    /// Class; 1 is the Internet.
    pub class: u16,
    /// Time to live in seconds.
    pub ttl: u32,
    /// Data in wire form, names uncompressed.
    pub data: Vec<u8>,
    /// Written as base64, and so printed.
    base64: bool,
}

/// TTL of a line without one, in seconds.
const DEFAULT_TTL: u32 = 3600;

/// How the data of a type is written.
#[derive(Clone, Copy)]
enum Part {
    U8,
    U16,
    U32,
    Name,
    Ip4,
    Ip6,
    /// One character-string.
    Text,
    /// Character-strings to the end.
    Texts,
    /// A word with its length before it.
    Word,
    /// A quoted string to the end, without length.
    Rest,
    /// `key=value` to the end.
    Params,
}

fn layout(rtype: QueryType) -> Option<&'static [Part]> {
    use Part::{Ip4, Ip6, Name, Params, Rest, Text, Texts, U8, U16, U32, Word};
    Some(match rtype.0 {
        1 => &[Ip4],
        28 => &[Ip6],
        // NS, CNAME, MB, MG, MR, PTR, DNAME
        2 | 5 | 7 | 8 | 9 | 12 | 39 => &[Name],
        6 => &[Name, Name, U32, U32, U32, U32, U32],
        13 => &[Text, Text],
        // MX, AFSDB, RT, KX
        15 | 18 | 21 | 36 => &[U16, Name],
        // TXT, SPF
        16 | 99 => &[Texts],
        17 => &[Name, Name],
        33 => &[U16, U16, U16, Name],
        35 => &[U16, U16, Text, Text, Text, Name],
        // SVCB, HTTPS
        64 | 65 => &[U16, Name, Params],
        256 => &[U16, U16, Rest],
        257 => &[U8, Word, Rest],
        _ => return None,
    })
}

impl DnsRecord {
    /// Parses a line of a zone file, or base64.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match STANDARD.decode(text) {
            Ok(wire) => Self::from_wire(&wire).ok_or_else(|| "parse binary DNS record".to_owned()),
            Err(_) => Self::from_line(text),
        }
    }

    fn from_wire(wire: &[u8]) -> Option<Self> {
        let owner = wire_name(wire)?;
        let mut rest = wire.get(owner.len()..)?;
        let rtype = QueryType(u16::from_be_bytes(take(&mut rest)?));
        let class = u16::from_be_bytes(take(&mut rest)?);
        let ttl = u32::from_be_bytes(take(&mut rest)?);
        let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
        let data = rest.get(..length)?.to_vec();
        Some(Self { owner: owner.to_vec(), rtype, class, ttl, data, base64: true })
    }

    fn from_line(line: &str) -> Result<Self, String> {
        let tokens = tokens(line)?;
        let mut tokens = tokens.iter().map(String::as_str);
        let missing = || format!("dns: record is incomplete: {}", go_quote(line));
        let owner = encode_name(tokens.next().ok_or_else(missing)?)?;
        let (mut ttl, mut class) = (DEFAULT_TTL, 1);
        let rtype = loop {
            let token = tokens.next().ok_or_else(missing)?;
            let upper = token.to_ascii_uppercase();
            if let Some(seconds) = parse_ttl(token) {
                ttl = seconds;
            } else if let Some(number) = parse_class(&upper) {
                class = number;
            } else {
                let number = upper.strip_prefix("TYPE").and_then(|n| n.parse().ok()).map(QueryType);
                break QueryType::from_name(&upper)
                    .or(number)
                    .ok_or_else(|| format!("dns: unknown RR type: {}", go_quote(token)))?;
            }
        };
        let data = encode_data(rtype, &tokens.collect::<Vec<_>>())?;
        Ok(Self { owner, rtype, class, ttl, data, base64: false })
    }

    /// Whether a text stands for the data of this record.
    fn is_text(&self, text: &str) -> bool {
        let Ok(tokens) = tokens(text) else { return false };
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        encode_data(self.rtype, &tokens).as_ref() == Ok(&self.data)
    }

    /// The record in wire form.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = self.owner.clone();
        out.extend(self.rtype.0.to_be_bytes());
        out.extend(self.class.to_be_bytes());
        out.extend(self.ttl.to_be_bytes());
        out.extend(u16::try_from(self.data.len()).unwrap_or(0).to_be_bytes());
        out.extend(&self.data);
        out
    }
}

impl fmt::Display for DnsRecord {
    /// The line of a zone file, as the reference prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            // The reference's library prints records of types it does not know in the generic form throughout.
            other if self.rtype.is_unnamed() => format!("CLASS{other}").into(),
            1 => Cow::from("IN"),
            3 => "CH".into(),
            4 => "HS".into(),
            other => format!("CLASS{other}").into(),
        };
        write!(f, "{}\t{}\t{class}\t", show_name(&self.owner), self.ttl)?;
        match self.rtype.to_string() {
            number if number.starts_with(|c: char| c.is_ascii_digit()) => {
                write!(f, "TYPE{number}\t")?
            }
            name => write!(f, "{name}\t")?,
        }
        // Odd data, such as an empty word, has no text of its own that would parse back to it.
        let text = layout(self.rtype).and_then(|parts| show_data(parts, &self.data));
        let text = text.filter(|text| self.is_text(text));
        match text {
            Some(text) => f.write_str(&text),
            None => {
                write!(f, "\\# {} ", self.data.len())?;
                self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_at_checked(N)?;
    *rest = tail;
    head.try_into().ok()
}

fn parse_ttl(token: &str) -> Option<u32> {
    if !token.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mut total, mut part) = (0u32, 0u32);
    for c in token.chars() {
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            digit => {
                part = part.checked_mul(10)?.checked_add(digit.to_digit(10)?)?;
                continue;
            }
        };
        total = total.checked_add(part.checked_mul(unit)?)?;
        part = 0;
    }
    total.checked_add(part)
}

fn parse_class(upper: &str) -> Option<u16> {
    match upper {
        "IN" => Some(1),
        "CH" => Some(3),
        "HS" => Some(4),
        _ => upper.strip_prefix("CLASS")?.parse().ok(),
    }
}

/// Splits a line at white space; a quoted token starts with `"` and keeps its escapes.
fn tokens(line: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            // Parentheses only join lines, and there is one line.
            c if c.is_whitespace() || c == '(' || c == ')' => {
                chars.next();
            }
            ';' => break,
            '"' => {
                let mut token = String::from(chars.next().unwrap_or('"'));
                loop {
                    match chars.next() {
                        None => return Err("dns: unexpected end of quoted string".to_owned()),
                        Some('"') => break,
                        Some('\\') => token.extend(['\\'].into_iter().chain(chars.next())),
                        Some(c) => token.push(c),
                    }
                }
                out.push(token);
            }
            _ => {
                let mut token = String::new();
                while let Some(&c) = chars.peek() {
                    if c.is_whitespace() || matches!(c, '(' | ')' | ';' | '"') {
                        break;
                    }
                    token.push(c);
                    chars.next();
                    if c == '\\' {
                        token.extend(chars.next());
                    }
                }
                out.push(token);
            }
        }
    }
    Ok(out)
}

/// Resolves `\c` and `\DDD`; gives each byte with whether it was escaped.
fn unescape(text: &str) -> Vec<(u8, bool)> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push((byte, false));
            continue;
        }
        let digits = rest.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit));
        let decimal = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
        match (decimal, rest.split_first()) {
            (Some(code), _) => {
                out.push((code, true));
                rest = rest.get(3..).unwrap_or_default();
            }
            (None, Some((&escaped, tail))) => {
                out.push((escaped, true));
                rest = tail;
            }
            (None, None) => {}
        }
    }
    out
}

fn encode_name(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("dns: bad domain name: {}", go_quote(text));
    let (mut out, mut label) = (Vec::new(), Vec::new());
    let mut push = |label: &mut Vec<u8>| {
        let length =
            u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n)).ok_or_else(bad)?;
        out.push(length);
        out.append(label);
        Ok::<_, String>(())
    };
    if text != "." && text != "@" {
        for (byte, escaped) in unescape(text) {
            if byte == b'.' && !escaped { push(&mut label)? } else { label.push(byte) }
        }
        // A name without the final dot is relative to the root here.
        if !label.is_empty() {
            push(&mut label)?;
        }
    }
    out.push(0);
    if out.len() > 255 { Err(bad()) } else { Ok(out) }
}

/// The uncompressed name that a text of wire form starts with.
fn wire_name(wire: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        let length = usize::from(*wire.get(at)?);
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            return wire.get(..at).filter(|name| name.len() <= 255);
        }
    }
}

fn show_name(wire: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = wire;
    while let Some((&length, tail)) = rest.split_first() {
        let Some((label, tail)) = tail.split_at_checked(usize::from(length)) else { break };
        if length == 0 {
            break;
        }
        for &byte in label {
            match byte {
                b'.' | b' ' | b'\'' | b'@' | b';' | b'(' | b')' | b'"' | b'\\' => {
                    out.extend(['\\', char::from(byte)]);
                }
                b'!'..=b'~' => out.push(char::from(byte)),
                other => out.push_str(&format!("\\{other:03}")),
            }
        }
        out.push('.');
        rest = tail;
    }
    if out.is_empty() { ".".to_owned() } else { out }
}

fn encode_data(rtype: QueryType, tokens: &[&str]) -> Result<Vec<u8>, String> {
    let bad = |token: &str| format!("dns: bad {rtype} data: {}", go_quote(token));
    if let [r"\#", length, hex @ ..] = tokens {
        let hex: Vec<u8> = hex.concat().into_bytes();
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let bytes = hex.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        return bytes.filter(|b| length.parse() == Ok(b.len())).ok_or_else(|| bad("\\#"));
    }
    let parts = layout(rtype).ok_or_else(|| {
        format!("dns: no text form for type {rtype} in this build; write it as `\\# length hex`")
    })?;
    let mut out = Vec::new();
    let mut tokens = tokens.iter().copied();
    for part in parts {
        if matches!(part, Part::Params) {
            // A quoted value is a token of its own behind `key=`.
            let mut params: Vec<(String, Vec<u8>)> = Vec::new();
            for token in tokens.by_ref() {
                match (token.strip_prefix('"'), params.last_mut()) {
                    (Some(_), Some((_, value))) => *value = unquote(token),
                    _ => {
                        let (key, value) = token.split_once('=').unwrap_or((token, ""));
                        params.push((key.to_owned(), unquote(value)));
                    }
                }
            }
            out.extend(dns_svcb::encode(&params).ok_or_else(|| bad("parameters"))?);
            break;
        }
        let Some(token) = tokens.next() else { return Err(bad("")) };
        let fail = || bad(token);
        match part {
            Part::U8 => out.push(token.parse::<u8>().map_err(|_| fail())?),
            Part::U16 => out.extend(token.parse::<u16>().map_err(|_| fail())?.to_be_bytes()),
            Part::U32 => out.extend(parse_ttl(token).ok_or_else(fail)?.to_be_bytes()),
            Part::Name => out.extend(encode_name(token)?),
            Part::Ip4 => out.extend(token.parse::<Ipv4Addr>().map_err(|_| fail())?.octets()),
            Part::Ip6 => out.extend(token.parse::<Ipv6Addr>().map_err(|_| fail())?.octets()),
            Part::Text | Part::Word => push_text(&mut out, token).ok_or_else(fail)?,
            Part::Texts => {
                push_text(&mut out, token).ok_or_else(fail)?;
                for token in tokens.by_ref() {
                    push_text(&mut out, token).ok_or_else(|| bad(token))?;
                }
            }
            Part::Rest => out.extend(unquote(token)),
            Part::Params => {}
        }
    }
    match tokens.next() {
        Some(extra) => Err(bad(extra)),
        None if out.len() > usize::from(u16::MAX) => Err(bad("")),
        None => Ok(out),
    }
}

fn unquote(token: &str) -> Vec<u8> {
    let text = token.strip_prefix('"').unwrap_or(token);
    unescape(text).into_iter().map(|(byte, _)| byte).collect()
}

/// A string longer than 255 bytes becomes several, as in the reference's library.
fn push_text(out: &mut Vec<u8>, token: &str) -> Option<()> {
    let bytes = unquote(token);
    if bytes.is_empty() {
        out.push(0);
    }
    for chunk in bytes.chunks(255) {
        out.push(u8::try_from(chunk.len()).ok()?);
        out.extend(chunk);
    }
    Some(())
}

fn show_data(parts: &[Part], data: &[u8]) -> Option<String> {
    let mut rest = data;
    let mut out = Vec::new();
    for part in parts {
        match part {
            Part::U8 => out.push(u8::from_be_bytes(take(&mut rest)?).to_string()),
            Part::U16 => out.push(u16::from_be_bytes(take(&mut rest)?).to_string()),
            Part::U32 => out.push(u32::from_be_bytes(take(&mut rest)?).to_string()),
            Part::Name => {
                let name = wire_name(rest)?;
                out.push(show_name(name));
                rest = rest.get(name.len()..)?;
            }
            Part::Ip4 => out.push(Ipv4Addr::from(take::<4>(&mut rest)?).to_string()),
            Part::Ip6 => out.push(Ipv6Addr::from(take::<16>(&mut rest)?).to_string()),
            Part::Text => out.push(quote(take_text(&mut rest)?)),
            Part::Word => out.push(std::str::from_utf8(take_text(&mut rest)?).ok()?.to_owned()),
            Part::Texts => {
                while !rest.is_empty() {
                    out.push(quote(take_text(&mut rest)?));
                }
            }
            Part::Rest => out.push(quote(std::mem::take(&mut rest))),
            Part::Params => {
                let params = dns_svcb::decode(std::mem::take(&mut rest))?;
                out.extend(params.iter().map(|(key, value)| format!("{key}={}", quote(value))));
            }
        }
    }
    rest.is_empty().then(|| out.join(" "))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, tail) = rest.split_first()?;
    let (text, tail) = tail.split_at_checked(usize::from(length))?;
    *rest = tail;
    Some(text)
}

fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("\\{other:03}")),
        }
    }
    out.push('"');
    out
}

impl Field for DnsRecord {
    fn absent() -> Self {
        Self {
            owner: vec![0],
            rtype: QueryType(0),
            class: 1,
            ttl: 0,
            data: Vec::new(),
            base64: false,
        }
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Self::parse(cursor.string()?).map_err(|message| cursor.error(message))
    }

    fn to_json(&self) -> serde_json::Value {
        if self.base64 { STANDARD.encode(self.to_wire()).into() } else { self.to_string().into() }
    }

    fn go_type() -> Cow<'static, str> {
        "option.DNSRecordOptions".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "string", "examples": ["example.org. IN A 192.0.2.1"]})
    }
}
