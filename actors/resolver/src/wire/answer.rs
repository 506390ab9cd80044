//! An answer of a server, and what is kept of it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crosspoint_kernel::resolve::Family;
use hickory_proto::rr::{
    RData,
    rdata::svcb::{SVCB as Svcb, SvcParamKey, SvcParamValue},
};

use super::{
    A, AAAA, DNSSEC_OK, HEADER, HTTPS, IN, OPT, OPTION_ERROR, OPTION_SUBNET, Query, Record, SOA,
    SVCB, Subnet, UDP_SIZE, options, push_opt, push_option, put, read_name, record, skip_name,
    u16_at, u32_at,
};
use crate::message;

/// What an OPT record says.
#[derive(Clone, Debug)]
struct Opt {
    size: u16,
    flags: u32,
    options: Box<[u8]>,
}

/// An answer, read once. The OPT record is taken out of the message.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    wire: Vec<u8>,
    /// Places of TTL fields.
    ttls: Vec<u16>,
    opt: Option<Opt>,
    rcode: u16,
    answers: u16,
    addresses: Vec<IpAddr>,
    smallest: Option<u32>,
    negative: Option<u32>,
}

/// Where things are in a message.
#[derive(Default)]
struct Scan {
    end: usize,
    ttls: Vec<u16>,
    addresses: Vec<IpAddr>,
    smallest: Option<u32>,
    negative: Option<u32>,
    opt: Option<Record>,
}

fn scan(wire: &[u8]) -> Option<Scan> {
    let mut scan = Scan::default();
    let mut at = HEADER;
    for _ in 0..u16_at(wire, 4)? {
        at = skip_name(wire, at)? + 4;
    }
    let [answers, authorities, others] = [u16_at(wire, 6)?, u16_at(wire, 8)?, u16_at(wire, 10)?];
    for (section, count) in [answers, authorities, others].into_iter().enumerate() {
        for _ in 0..count {
            let record = record(wire, at)?;
            at = record.data.end;
            if record.rtype == OPT {
                // One at most, among the additional records, of the root (RFC 6891 §6.1.1).
                let root = record.ttl_at - record.start == 5;
                if section != 2 || !root || scan.opt.replace(record).is_some() {
                    return None;
                }
                continue;
            }
            scan.ttls.push(u16::try_from(record.ttl_at).ok()?);
            scan.smallest = Some(scan.smallest.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
            if section == 0 {
                addresses(wire, &record, &mut scan.addresses);
            } else if section == 1 && record.rtype == SOA && scan.negative.is_none() {
                // Its last field is the TTL of negative answers (RFC 2308 §5).
                let minimum = u32_at(wire, record.data.end.checked_sub(4)?)?;
                scan.negative = Some(minimum.min(record.ttl));
            }
        }
    }
    wire.get(..at)?;
    scan.end = at;
    Some(scan)
}

/// The addresses that a record of the answer section holds, hints included.
fn addresses(wire: &[u8], record: &Record, out: &mut Vec<IpAddr>) {
    let data = wire.get(record.data.clone()).unwrap_or_default();
    match record.rtype {
        A if record.class == IN => {
            out.extend(
                <[u8; 4]>::try_from(data).map(|octets| IpAddr::from(Ipv4Addr::from(octets))),
            );
        }
        AAAA if record.class == IN => {
            out.extend(
                <[u8; 16]>::try_from(data).map(|octets| IpAddr::from(Ipv6Addr::from(octets))),
            );
        }
        HTTPS => {
            let Some(params) = skip_name(wire, record.data.start + 2) else { return };
            let params = wire.get(params..record.data.end).unwrap_or_default();
            // Parameters are laid out as EDNS options are: key, length, value (RFC 9460 §2.2).
            for (key, value) in options(params) {
                let four = value.as_chunks::<4>().0;
                let six = value.as_chunks::<16>().0;
                match key {
                    4 => out.extend(four.iter().map(|octets| IpAddr::from(*octets))),
                    6 => out.extend(six.iter().map(|octets| IpAddr::from(*octets))),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

impl Answer {
    /// Reads the answer of a server to `query`.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn read(mut wire: Vec<u8>, query: &Query<'_>) -> Result<Self, &'static str> {
        const BROKEN: &str = "the answer is broken";
        let flags = u16_at(&wire, 2).ok_or(BROKEN)?;
        if flags & 0x8000 == 0 {
            return Err("the answer is a query");
        }
        if u16_at(&wire, 0) != Some(query.id()) {
            return Err("the answer is to another query");
        }
        let questions = u16_at(&wire, 4).ok_or(BROKEN)?;
        let records = wire.get(6..HEADER).ok_or(BROKEN)?;
        if questions == 0 && (records == [0; 6] || records == [0, 0, 0, 0, 0, 1]) {
            // A server that did not understand the query need not repeat the question.
            let head = query.message().get(HEADER..query.question_end()).unwrap_or_default();
            put(&mut wire, 4, &[0, 1]);
            wire.splice(HEADER..HEADER, head.iter().copied());
        } else {
            let question = wire.get(HEADER..query.question_end()).ok_or(BROKEN)?;
            let (name, kind) = question.split_at_checked(query.wire_name().len()).ok_or(BROKEN)?;
            let asked = query.message().get(query.question_end() - 4..query.question_end());
            if questions != 1
                || !name.eq_ignore_ascii_case(query.wire_name())
                || asked != Some(kind)
            {
                return Err("the answer is to another question");
            }
        }
        let mut found = scan(&wire).ok_or(BROKEN)?;
        let mut opt = None;
        if let Some(record) = found.opt.take() {
            let options = wire.get(record.data.clone()).unwrap_or_default().into();
            opt = Some(Opt { size: record.class, flags: record.ttl, options });
            if record.data.end == found.end {
                wire.truncate(record.start);
                found.end = record.start;
                let left = u16_at(&wire, 10).ok_or(BROKEN)?.saturating_sub(1);
                put(&mut wire, 10, &left.to_be_bytes());
            } else {
                // Records behind it may point at names behind it: the message is made anew.
                let mut message = message::read(&wire).map_err(|_| BROKEN)?;
                message.edns = None;
                wire = message.to_vec().map_err(|_| BROKEN)?;
                found = scan(&wire).ok_or(BROKEN)?;
            }
        }
        wire.truncate(found.end);
        let extended = opt.as_ref().map_or(0, |opt| (opt.flags >> 24) as u16);
        Ok(Self {
            rcode: extended << 4 | flags & 0x0f,
            answers: u16_at(&wire, 6).ok_or(BROKEN)?,
            wire,
            ttls: found.ttls,
            opt,
            addresses: found.addresses,
            smallest: found.smallest,
            negative: found.negative,
        })
    }

    pub(crate) fn rcode(&self) -> u16 {
        self.rcode
    }

    /// Whether there is more than it holds.
    pub(crate) fn is_truncated(&self) -> bool {
        self.wire.get(2).is_some_and(|flags| flags & 0x02 != 0)
    }

    /// How long it may be kept, in seconds: the smallest TTL, or what the zone says of negative answers.
    pub(crate) fn ttl(&self) -> u32 {
        match self.negative {
            Some(ttl) if self.answers == 0 => ttl,
            _ => self.smallest.unwrap_or(0),
        }
    }

    /// Gives all records that TTL.
    pub(crate) fn set_ttl(&mut self, ttl: u32) {
        for at in &self.ttls {
            put(&mut self.wire, usize::from(*at), &ttl.to_be_bytes());
        }
    }

    /// Takes the addresses of the other family out of service records.
    pub(crate) fn keep_hints(&mut self, family: Family) {
        let unwanted = match family {
            Family::V4 => SvcParamKey::Ipv6Hint,
            Family::V6 => SvcParamKey::Ipv4Hint,
        };
        let Ok(mut message) = message::read(&self.wire) else { return };
        for record in &mut message.answers {
            match &mut record.data {
                RData::HTTPS(https) => strip(&mut https.0, unwanted),
                RData::SVCB(svcb) => strip(svcb, unwanted),
                _ => {}
            }
        }
        let Ok(wire) = message.to_vec() else { return };
        if let Some(found) = scan(&wire) {
            (self.wire, self.ttls, self.addresses) = (wire, found.ttls, found.addresses);
        }
    }

    /// What is sent and kept. With `personal`, options for one client only stay in it.
    pub(crate) fn into_reply(self, query: &Query<'_>, ttl: u32, personal: bool) -> Reply {
        let opt = self.opt.map(|opt| {
            let mut kept = Vec::new();
            for (code, value) in options(&opt.options) {
                // A client that has sent no subnet, or another one, is not told of one (RFC 7871 §7.2.2, §7.3).
                let keep = match code {
                    OPTION_SUBNET => match (query.subnet(), value.split_first_chunk::<4>()) {
                        (Some(asked), Some((&[a, family, bits, _], address))) => {
                            let plain = [&[a, family, bits, 0], address].concat();
                            Subnet::read(&plain) == Some(asked)
                        }
                        _ => false,
                    },
                    OPTION_ERROR => true,
                    _ => personal,
                };
                if keep {
                    push_option(&mut kept, code, value);
                }
            }
            Opt { options: kept.into(), ..opt }
        });
        Reply {
            wire: self.wire.into(),
            ttls: self.ttls.into(),
            opt,
            edns: query.has_edns(),
            rcode: self.rcode,
            answers: self.answers,
            addresses: self.addresses.into(),
            ttl,
        }
    }
}

fn strip(record: &mut Svcb, unwanted: SvcParamKey) {
    record.svc_params.retain_mut(|(key, value)| {
        if let SvcParamValue::Mandatory(keys) = value {
            keys.0.retain(|key| *key != unwanted);
            return !keys.0.is_empty();
        }
        *key != unwanted
    });
}

fn owners(wire: &[u8]) -> Vec<(IpAddr, Box<str>)> {
    let mut out = Vec::new();
    let mut walk = || {
        let mut at = HEADER;
        for _ in 0..u16_at(wire, 4)? {
            at = skip_name(wire, at)? + 4;
        }
        for _ in 0..u16_at(wire, 6)? {
            let record = record(wire, at)?;
            at = record.data.end;
            let mut found = Vec::new();
            if matches!(record.rtype, A | AAAA) {
                addresses(wire, &record, &mut found);
            }
            for ip in found {
                out.push((ip, read_name(wire, record.start)?.to_ascii_lowercase().into()));
            }
        }
        Some(())
    };
    // What is broken was refused before.
    let _ = walk();
    out
}

/// An answer as it is kept and told: the message without its OPT record, and where to patch it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    wire: Box<[u8]>,
    ttls: Box<[u16]>,
    opt: Option<Opt>,
    /// Whether the query that it came for had an OPT record.
    edns: bool,
    rcode: u16,
    answers: u16,
    addresses: Box<[IpAddr]>,
    ttl: u32,
}

impl Reply {
    /// Appends the answer for `query`, whose name is the same but for the case of letters.
    pub(crate) fn render(&self, query: &Query<'_>, ttl: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.wire.len() + 32);
        out.extend_from_slice(&self.wire);
        let message = out.get_mut(start..).unwrap_or_default();
        let (rd, cd) = query.flags();
        put(message, 0, query.message().get(..2).unwrap_or_default());
        if let Some([a, b]) = message.get_mut(2..4) {
            *a = *a & !0x01 | rd;
            *b = *b & !0x10 | cd;
        }
        put(message, HEADER, query.wire_name());
        if ttl != self.ttl {
            for at in &self.ttls {
                put(message, usize::from(*at), &ttl.to_be_bytes());
            }
        }
        if query.has_edns() {
            match &self.opt {
                Some(opt) => push_opt(out, start, opt.size, opt.flags, &opt.options),
                // The server was not asked with EDNS; that is no reason to tell a client that it has none.
                None if !self.edns => {
                    let flags = if query.dnssec_ok() { DNSSEC_OK } else { 0 };
                    push_opt(out, start, UDP_SIZE, flags, &[]);
                }
                None => {}
            }
        }
    }

    pub(crate) fn rcode(&self) -> u16 {
        self.rcode
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// How many records answer the question.
    pub(crate) fn answers(&self) -> u16 {
        self.answers
    }

    /// The TTL of all records when it came, in seconds.
    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Bytes that it takes up, about.
    pub(crate) fn weight(&self) -> usize {
        let options = self.opt.as_ref().map_or(0, |opt| opt.options.len());
        size_of::<Self>()
            + self.wire.len()
            + 2 * self.ttls.len()
            + options
            + size_of_val(&*self.addresses)
    }

    /// Every address record of the answer with its owner, for the reverse mapping.
    pub(crate) fn owners(&self) -> Vec<(IpAddr, Box<str>)> {
        owners(&self.wire)
    }

    /// The message without OPT record, for the log.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }
}

/// Whether service records of this type tell addresses.
pub(crate) fn has_hints(qtype: u16) -> bool {
    matches!(qtype, HTTPS | SVCB)
}

/// An answer that several askers share.
pub(crate) type Shared = Arc<Reply>;
