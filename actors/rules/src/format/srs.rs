//! The binary form, `.srs`: `SRS`, a version byte, and a zlib stream of rules.
//!
//! Source: the reference's `common/srs/binary.go` and `common/varbin`. A rule is type 0 with items, each after a byte
//! that tells which, up to 0xFF and the flag `invert`; or type 1 with a mode, a count, rules and the flag. Lists have
//! their count before them as uvarint, texts their length; integers are big-endian. Version 2 knows one key for a name
//! and what is below it (see `names`) and AdGuard patterns, version 3 `network_type` and the two network flags.

use std::io::Write;

use crosspoint_schema::options::{HeadlessMatchers, InterfaceType, QueryType};
use flate2::{Compression, Decompress, FlushDecompress, Status, write::ZlibEncoder};

use super::{
    CURRENT_VERSION, DefaultRule, FormatError, IpRanges, LogicalRule, Rule, Rules, Trie,
    bytes::{Reader, put_texts, put_uvarint},
    names,
};

const MAGIC: &[u8; 3] = b"SRS";
/// What the zlib stream may unfold to. The whole of geosite and geoip takes a tenth of it.
const MAX_INFLATED: usize = 128 << 20;
/// What rules may take in memory, besides what the stream itself takes.
const MAX_MEMORY: usize = 256 << 20;
/// How deep logical rules may nest; as deep as in a source file.
const MAX_DEPTH: usize = 64;

mod item {
    pub(super) const QUERY_TYPE: u8 = 0;
    pub(super) const NETWORK: u8 = 1;
    pub(super) const DOMAIN: u8 = 2;
    pub(super) const DOMAIN_KEYWORD: u8 = 3;
    pub(super) const DOMAIN_REGEX: u8 = 4;
    pub(super) const SOURCE_IP_CIDR: u8 = 5;
    pub(super) const IP_CIDR: u8 = 6;
    pub(super) const SOURCE_PORT: u8 = 7;
    pub(super) const SOURCE_PORT_RANGE: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const PORT_RANGE: u8 = 10;
    pub(super) const PROCESS_NAME: u8 = 11;
    pub(super) const PROCESS_PATH: u8 = 12;
    pub(super) const PACKAGE_NAME: u8 = 13;
    pub(super) const WIFI_SSID: u8 = 14;
    pub(super) const WIFI_BSSID: u8 = 15;
    pub(super) const ADGUARD_DOMAIN: u8 = 16;
    pub(super) const PROCESS_PATH_REGEX: u8 = 17;
    pub(super) const NETWORK_TYPE: u8 = 18;
    pub(super) const NETWORK_IS_EXPENSIVE: u8 = 19;
    pub(super) const NETWORK_IS_CONSTRAINED: u8 = 20;
    pub(super) const FINAL: u8 = 0xff;
}

const INTERFACE_TYPES: [InterfaceType; 4] =
    [InterfaceType::Wifi, InterfaceType::Cellular, InterfaceType::Ethernet, InterfaceType::Other];

/// Reads a file. Names and addresses stay in the form that the file has.
///
/// # Errors
/// Bytes that are no such file, of a version that is not known, cut or damaged, or that unfold to more than 128 MiB.
/// Offsets count the inflated rules.
pub fn read(bytes: &[u8]) -> Result<Rules, FormatError> {
    let (version, body) = inflate(bytes)?;
    read_body(version, &body)
}

/// Reads the rules of a file of that version, once inflated.
///
/// # Errors
/// As [`read`].
pub fn read_body(version: u8, body: &[u8]) -> Result<Rules, FormatError> {
    let mut reader = Reader::new(body);
    let count = reader.count(3)?;
    let mut budget = MAX_MEMORY;
    let rules = read_rules(&mut reader, count, &mut budget, 0, |error, index| {
        error.within(format_args!("read rule[{index}]"))
    })?;
    Ok(Rules { version, rules })
}

/// The version of a file and its rules, inflated.
///
/// # Errors
/// As [`read`], without a look at the rules.
pub fn inflate(bytes: &[u8]) -> Result<(u8, Vec<u8>), FormatError> {
    let mut head = Reader::new(bytes);
    if head.take(MAGIC.len())? != MAGIC {
        return Err(FormatError::Message("invalid sing-box rule-set file".to_owned()));
    }
    let version = head.u8()?;
    if version > CURRENT_VERSION {
        return Err(FormatError::Message(format!("unsupported version: {version}")));
    }
    if version == 0 {
        return Err(FormatError::Message("unknown rule-set version: 0".to_owned()));
    }
    let packed = head.take(head.left())?;
    let mut zlib = Decompress::new(true);
    let mut body: Vec<u8> = Vec::with_capacity(packed.len().saturating_mul(4).min(MAX_INFLATED));
    loop {
        let taken = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX);
        let rest = packed.get(taken..).unwrap_or_default();
        let before = (zlib.total_in(), zlib.total_out());
        let status =
            zlib.decompress_vec(rest, &mut body, FlushDecompress::Finish).map_err(|error| {
                match zlib.total_out() {
                    0 => FormatError::Message(format!("zlib: invalid header: {error}")),
                    at => FormatError::at(at as usize, format!("zlib: {error}")),
                }
            })?;
        if status == Status::StreamEnd {
            return Ok((version, body));
        }
        if body.len() >= MAX_INFLATED {
            let message = format!("the rules are larger than {} MiB", MAX_INFLATED >> 20);
            return Err(FormatError::Message(message));
        }
        if body.len() == body.capacity() {
            body.reserve((body.len() * 2).clamp(4096, MAX_INFLATED) - body.len().min(4096));
        } else if before == (zlib.total_in(), zlib.total_out()) {
            return Err(FormatError::Message("unexpected EOF: the file is cut".to_owned()));
        }
    }
}

fn read_rules(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut usize,
    depth: usize,
    within: impl Fn(FormatError, usize) -> FormatError,
) -> Result<Vec<Rule>, FormatError> {
    let mut rules = Vec::with_capacity(count.min(64));
    for index in 0..count {
        rules.push(read_rule(reader, budget, depth).map_err(|error| within(error, index))?);
    }
    Ok(rules)
}

fn read_rule(
    reader: &mut Reader<'_>,
    budget: &mut usize,
    depth: usize,
) -> Result<Rule, FormatError> {
    spend(reader, budget, 1, size_of::<Rule>() + size_of::<DefaultRule>())?;
    match reader.u8()? {
        0 => read_default(reader, budget).map(|rule| Rule::Default(Box::new(rule))),
        1 if depth >= MAX_DEPTH => Err(reader.error("logical rules nest too deep")),
        1 => {
            let mode = match reader.u8()? {
                0 => "and",
                1 => "or",
                other => return Err(reader.error(format!("unknown logical mode: {other}"))),
            };
            let count = reader.count(3)?;
            let rules = read_rules(reader, count, budget, depth + 1, |error, index| {
                error.within(format_args!("read logical rule [{index}]"))
            })?;
            let invert = reader.u8()? != 0;
            Ok(Rule::Logical(LogicalRule { mode: mode.to_owned(), rules, invert }))
        }
        other => Err(reader.error(format!("unknown rule type: {other}"))),
    }
}

/// Takes what `count` things of `size` bytes need off the budget: an empty text is one byte in a file, and 24 in memory.
fn spend(
    reader: &Reader<'_>,
    budget: &mut usize,
    count: usize,
    size: usize,
) -> Result<(), FormatError> {
    let left = count.checked_mul(size).and_then(|all| budget.checked_sub(all));
    *budget = left.ok_or_else(|| reader.error("the rules take too much memory"))?;
    Ok(())
}

fn read_default(reader: &mut Reader<'_>, budget: &mut usize) -> Result<DefaultRule, FormatError> {
    let mut rule = DefaultRule::default();
    let to = &mut rule.matchers;
    let mut last = 0;
    loop {
        let start = reader.position();
        let kind = reader.u8()?;
        match kind {
            item::QUERY_TYPE => {
                to.query_type.0 = numbers(reader, budget)?.into_iter().map(QueryType).collect();
            }
            item::NETWORK => to.network.0 = texts(reader, budget)?,
            item::DOMAIN => rule.names = Some(Trie::read(reader)?),
            item::DOMAIN_KEYWORD => to.domain_keyword.0 = texts(reader, budget)?,
            item::DOMAIN_REGEX => to.domain_regex.0 = texts(reader, budget)?,
            item::SOURCE_IP_CIDR => rule.source_ips = Some(IpRanges::read(reader)?),
            item::IP_CIDR => rule.ips = Some(IpRanges::read(reader)?),
            item::SOURCE_PORT => to.source_port.0 = numbers(reader, budget)?,
            item::SOURCE_PORT_RANGE => to.source_port_range.0 = texts(reader, budget)?,
            item::PORT => to.port.0 = numbers(reader, budget)?,
            item::PORT_RANGE => to.port_range.0 = texts(reader, budget)?,
            item::PROCESS_NAME => to.process_name.0 = texts(reader, budget)?,
            item::PROCESS_PATH => to.process_path.0 = texts(reader, budget)?,
            item::PROCESS_PATH_REGEX => to.process_path_regex.0 = texts(reader, budget)?,
            item::PACKAGE_NAME => to.package_name.0 = texts(reader, budget)?,
            item::WIFI_SSID => to.wifi_ssid.0 = texts(reader, budget)?,
            item::WIFI_BSSID => to.wifi_bssid.0 = texts(reader, budget)?,
            item::ADGUARD_DOMAIN => rule.adguard = Some(Trie::read(reader)?),
            item::NETWORK_TYPE => {
                to.network_type.0 = reader.list(1, |reader| {
                    let number = reader.u8()?;
                    INTERFACE_TYPES
                        .get(usize::from(number))
                        .copied()
                        .ok_or_else(|| reader.error(format!("unknown interface type: {number}")))
                })?;
            }
            item::NETWORK_IS_EXPENSIVE => to.network_is_expensive = true,
            item::NETWORK_IS_CONSTRAINED => to.network_is_constrained = true,
            item::FINAL => {
                to.invert = reader.u8()? != 0;
                return Ok(rule);
            }
            other => {
                let message = format!("unknown rule item type: {other}, last type: {last}");
                return Err(FormatError::at(start, message));
            }
        }
        last = kind;
    }
}

fn texts(reader: &mut Reader<'_>, budget: &mut usize) -> Result<Vec<String>, FormatError> {
    let count = reader.clone().count(1)?;
    spend(reader, budget, count, size_of::<String>())?;
    reader.list(1, Reader::text)
}

fn numbers(reader: &mut Reader<'_>, budget: &mut usize) -> Result<Vec<u16>, FormatError> {
    let count = reader.clone().count(2)?;
    spend(reader, budget, count, 2)?;
    reader.list(2, Reader::u16)
}

/// Writes a file: the same rules as the reference's, byte by byte once they are inflated.
///
/// # Errors
/// What the version of the rules cannot say, and names or addresses that are none.
pub fn write(rules: &Rules) -> Result<Vec<u8>, FormatError> {
    let mut out = MAGIC.to_vec();
    out.push(rules.version);
    let mut zlib = ZlibEncoder::new(out, Compression::best());
    let written = zlib.write_all(&body(rules)?).and_then(|()| zlib.finish());
    written.map_err(|error| FormatError::Message(error.to_string()))
}

/// The rules of a file before they are compressed.
///
/// # Errors
/// As [`write()`].
pub fn body(rules: &Rules) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    put_uvarint(&mut out, rules.rules.len() as u64);
    for rule in &rules.rules {
        put_rule(&mut out, rule, rules.version)?;
    }
    Ok(out)
}

fn put_rule(out: &mut Vec<u8>, rule: &Rule, version: u8) -> Result<(), FormatError> {
    match rule {
        Rule::Default(rule) => {
            out.push(0);
            put_default(out, rule, version)?;
            out.push(item::FINAL);
            out.push(rule.matchers.invert.into());
        }
        Rule::Logical(rule) => {
            out.push(1);
            out.push(match rule.mode.as_str() {
                "and" => 0,
                "or" => 1,
                // The reference crashes.
                other => return Err(format!("unknown logical mode: {other}").into()),
            });
            put_uvarint(out, rule.rules.len() as u64);
            for rule in &rule.rules {
                put_rule(out, rule, version)?;
            }
            out.push(rule.invert.into());
        }
    }
    Ok(())
}

fn put_default(out: &mut Vec<u8>, rule: &DefaultRule, version: u8) -> Result<(), FormatError> {
    let from = &rule.matchers;
    let query_types: Vec<u16> = from.query_type.iter().map(|query| query.0).collect();
    put_numbers(out, item::QUERY_TYPE, &query_types);
    put_list(out, item::NETWORK, &from.network);
    put_names(out, rule, version)?;
    put_list(out, item::DOMAIN_KEYWORD, &from.domain_keyword);
    put_list(out, item::DOMAIN_REGEX, &from.domain_regex);
    let (sources, source_ips) = (&from.source_ip_cidr, &rule.source_ips);
    put_ranges(out, item::SOURCE_IP_CIDR, sources, source_ips.as_ref())
        .map_err(|error| error.within("source_ip_cidr"))?;
    put_ranges(out, item::IP_CIDR, &from.ip_cidr, rule.ips.as_ref())
        .map_err(|error| error.within("ipcidr"))?;
    put_numbers(out, item::SOURCE_PORT, &from.source_port);
    put_list(out, item::SOURCE_PORT_RANGE, &from.source_port_range);
    put_numbers(out, item::PORT, &from.port);
    put_list(out, item::PORT_RANGE, &from.port_range);
    put_list(out, item::PROCESS_NAME, &from.process_name);
    put_list(out, item::PROCESS_PATH, &from.process_path);
    put_list(out, item::PROCESS_PATH_REGEX, &from.process_path_regex);
    put_list(out, item::PACKAGE_NAME, &from.package_name);
    put_network(out, from, version)?;
    put_list(out, item::WIFI_SSID, &from.wifi_ssid);
    put_list(out, item::WIFI_BSSID, &from.wifi_bssid);
    if let Some(trie) = &rule.adguard {
        if version < 2 {
            let message = "AdGuard rule items is only supported in version 2 or later";
            return Err(message.to_owned().into());
        }
        out.push(item::ADGUARD_DOMAIN);
        trie.write(out);
    }
    Ok(())
}

fn put_names(out: &mut Vec<u8>, rule: &DefaultRule, version: u8) -> Result<(), FormatError> {
    let (domain, suffix) = (&rule.matchers.domain, &rule.matchers.domain_suffix);
    let made = names::compile(domain, suffix, version)?;
    if let Some(trie) = made.as_ref().or(rule.names.as_ref()) {
        out.push(item::DOMAIN);
        trie.write(out);
    }
    Ok(())
}

fn put_ranges(
    out: &mut Vec<u8>,
    kind: u8,
    texts: &[String],
    ranges: Option<&IpRanges>,
) -> Result<(), FormatError> {
    let made = if texts.is_empty() { None } else { Some(IpRanges::parse(texts)?) };
    if let Some(ranges) = made.as_ref().or(ranges) {
        out.push(kind);
        ranges.write(out);
    }
    Ok(())
}

fn put_network(out: &mut Vec<u8>, from: &HeadlessMatchers, version: u8) -> Result<(), FormatError> {
    if !from.network_type.is_empty() {
        if version < 3 {
            let message = "network_type rule item is only supported in version 3 or later";
            return Err(message.to_owned().into());
        }
        out.push(item::NETWORK_TYPE);
        put_uvarint(out, from.network_type.len() as u64);
        out.extend(from.network_type.iter().map(|kind| *kind as u8));
    }
    if from.network_is_expensive {
        out.push(item::NETWORK_IS_EXPENSIVE);
    }
    if from.network_is_constrained {
        out.push(item::NETWORK_IS_CONSTRAINED);
    }
    Ok(())
}

fn put_list(out: &mut Vec<u8>, kind: u8, texts: &[String]) {
    if !texts.is_empty() {
        out.push(kind);
        put_texts(out, texts);
    }
}

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u16]) {
    if !numbers.is_empty() {
        out.push(kind);
        put_uvarint(out, numbers.len() as u64);
        for number in numbers {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}
