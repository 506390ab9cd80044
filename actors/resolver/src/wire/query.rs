//! A query as it comes in.

use std::net::IpAddr;

use crosspoint_schema::decode::Prefix;

use super::{
    DNSSEC_OK, HEADER, MAX_NAME, OPT, OPTION_SUBNET, OPTIONS_OF_HOP, SIGNATURES, UDP_SIZE, options,
    push_label, push_opt, push_option, put, record, u16_at,
};

/// Why a message is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short for a header, or an answer: nothing may be sent back.
    #[error("not a DNS query")]
    NoQuery,
    /// The number of questions is not one, or the message is broken: "format error" is the answer.
    #[error("bad DNS query")]
    Broken,
}

/// A client subnet in its shortest form (RFC 7871 §6): family, leading bits, and the bytes that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    bytes: [u8; 18],
    length: u8,
}

impl Subnet {
    /// The subnet of a prefix.
    pub fn new(prefix: Prefix) -> Self {
        match prefix.addr {
            IpAddr::V4(ip) => Self::masked(1, prefix.bits.min(32), &ip.octets()),
            IpAddr::V6(ip) => Self::masked(2, prefix.bits.min(128), &ip.octets()),
        }
    }

    fn masked(family: u8, bits: u8, address: &[u8]) -> Self {
        let mut bytes = [0; 18];
        let whole = usize::from(bits).div_ceil(8);
        [bytes[0], bytes[1]] = [family, bits];
        for (to, from) in bytes[2..].iter_mut().zip(address.iter().take(whole)) {
            *to = *from;
        }
        if !bits.is_multiple_of(8) {
            bytes[1 + whole] &= 0xff << (8 - bits % 8);
        }
        Self { bytes, length: 2 + whole as u8 }
    }

    /// Reads the value of an option; `None` where it is broken.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let (&[0, family @ 1..=2, bits, _scope], address) = value.split_first_chunk()? else {
            return None;
        };
        let width = if family == 1 { 32 } else { 128 };
        let fits = bits <= width && address.len() == usize::from(bits).div_ceil(8);
        fits.then(|| Self::masked(family, bits, address))
    }

    /// Its part of a cache key.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The value of the option in a query.
    fn option(&self) -> Vec<u8> {
        let mut out = vec![0, self.bytes[0], self.bytes[1], 0];
        out.extend(self.as_bytes().get(2..).unwrap_or_default());
        out
    }
}

/// The OPT record of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edns {
    start: usize,
    end: usize,
    data: usize,
    size: u16,
    flags: u32,
}

/// A query, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    message: &'a [u8],
    /// Behind the name of the question.
    name_end: usize,
    qtype: u16,
    qclass: u16,
    edns: Option<Edns>,
    subnet: Option<Subnet>,
    /// Nothing in it but a question and an OPT record whose options do not matter to others who ask the same.
    plain: bool,
    /// Whether there are options in it that are between the client and the server that answers.
    hop: bool,
    signed: bool,
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed::NoQuery)?;
        if header[2] & 0x80 != 0 {
            return Err(Malformed::NoQuery);
        }
        let broken = Malformed::Broken;
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if count(4) != 1 {
            return Err(broken);
        }
        let mut at = HEADER;
        loop {
            match usize::from(*message.get(at).ok_or(broken)?) {
                0 => break,
                length @ 1..=63 => at += 1 + length,
                // There is no name before this one that a pointer could lead to.
                _ => return Err(broken),
            }
            if at - HEADER >= MAX_NAME {
                return Err(broken);
            }
        }
        let name_end = at + 1;
        let mut query = Self {
            message,
            name_end,
            qtype: u16_at(message, name_end).ok_or(broken)?,
            qclass: u16_at(message, name_end + 2).ok_or(broken)?,
            edns: None,
            subnet: None,
            plain: header[2] & 0x78 == 0 && header[2] & 0x02 == 0,
            hop: false,
            signed: false,
        };
        let others = u32::from(count(6)) + u32::from(count(8));
        let mut at = name_end + 4;
        for index in 0..others + u32::from(count(10)) {
            let record = record(message, at).ok_or(broken)?;
            at = record.data.end;
            query.signed |= SIGNATURES.contains(&record.rtype);
            // The owner of an OPT record is the root: one byte.
            let opt = record.rtype == OPT && record.ttl_at - record.start == 5;
            if !opt || index < others || query.edns.is_some() {
                query.plain = false;
                continue;
            }
            query.read_opt(&record);
        }
        Ok(query)
    }

    fn read_opt(&mut self, record: &super::Record) {
        let data = self.message.get(record.data.clone()).unwrap_or_default();
        // Version 0, no extended code, no flag but "DNSSEC OK".
        self.plain &= record.ttl & !DNSSEC_OK == 0;
        let mut read = 0;
        for (code, value) in options(data) {
            read += 4 + value.len();
            if code == OPTION_SUBNET && self.subnet.is_none() {
                self.subnet = Subnet::read(value);
                self.plain &= self.subnet.is_some();
            } else if OPTIONS_OF_HOP.contains(&code) {
                self.hop = true;
            } else {
                self.plain = false;
            }
        }
        self.plain &= read == data.len();
        self.edns = Some(Edns {
            start: record.start,
            end: record.data.end,
            data: record.data.start,
            size: record.class,
            flags: record.ttl,
        });
    }

    /// The whole message.
    pub fn message(&self) -> &'a [u8] {
        self.message
    }

    /// The id.
    pub fn id(&self) -> u16 {
        u16_at(self.message, 0).unwrap_or(0)
    }

    /// The type that is asked for.
    pub fn qtype(&self) -> u16 {
        self.qtype
    }

    /// The class that is asked for.
    pub fn qclass(&self) -> u16 {
        self.qclass
    }

    /// The name that is asked for: lower case, without the final dot; the root is `.`.
    pub fn name(&self) -> String {
        let mut out = String::with_capacity(self.name_end - HEADER);
        let mut rest = self.wire_name();
        while let Some((&length @ 1.., tail)) = rest.split_first() {
            let Some((label, tail)) = tail.split_at_checked(usize::from(length)) else { break };
            if !out.is_empty() {
                out.push('.');
            }
            push_label(&mut out, label);
            rest = tail;
        }
        out.make_ascii_lowercase();
        if out.is_empty() { ".".to_owned() } else { out }
    }

    /// The name on the wire.
    pub(crate) fn wire_name(&self) -> &'a [u8] {
        self.message.get(HEADER..self.name_end).unwrap_or_default()
    }

    /// Header and question.
    fn head(&self) -> &'a [u8] {
        self.message.get(..self.question_end()).unwrap_or_default()
    }

    pub(crate) fn question_end(&self) -> usize {
        self.name_end + 4
    }

    /// Largest answer over UDP that the client can take, in bytes.
    pub fn udp_size(&self) -> usize {
        self.edns.map_or(512, |edns| usize::from(edns.size).max(512))
    }

    pub(crate) fn has_edns(&self) -> bool {
        self.edns.is_some()
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.flags & DNSSEC_OK != 0)
    }

    /// "Checking disabled".
    pub(crate) fn unchecked(&self) -> bool {
        self.message.get(3).is_some_and(|flags| flags & 0x10 != 0)
    }

    /// The byte with "recursion desired", and the one with "checking disabled".
    pub(crate) fn flags(&self) -> (u8, u8) {
        let flag = |at: usize, bit: u8| self.message.get(at).copied().unwrap_or(0) & bit;
        (flag(2, 0x01), flag(3, 0x10))
    }

    /// The client subnet in it.
    pub(crate) fn subnet(&self) -> Option<Subnet> {
        self.subnet
    }

    /// Whether others who ask the same may be told the same.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether the answer must come from the server itself, with options for this client only.
    pub(crate) fn is_personal(&self) -> bool {
        !self.plain || self.hop
    }

    /// The query with that client subnet instead of its own. A signed query stays as it is: a change would break it.
    pub(crate) fn with_subnet(&self, subnet: &Subnet) -> Vec<u8> {
        let mut out = self.message.to_vec();
        let mut list = Vec::new();
        let (mut size, mut flags) = (UDP_SIZE, 0);
        if self.signed {
            return out;
        }
        if let Some(edns) = self.edns {
            (size, flags) = (edns.size, edns.flags);
            for (code, value) in options(self.message.get(edns.data..edns.end).unwrap_or_default())
            {
                if code != OPTION_SUBNET {
                    push_option(&mut list, code, value);
                }
            }
            out.drain(edns.start..edns.end);
            let left = u16_at(&out, 10).unwrap_or(1).saturating_sub(1);
            put(&mut out, 10, &left.to_be_bytes());
        }
        push_option(&mut list, OPTION_SUBNET, &subnet.option());
        push_opt(&mut out, 0, size, flags, &list);
        out
    }

    /// An answer without records, or with some that are appended by `fill`: authoritative, as the reference's own are.
    pub(crate) fn reply(&self, rcode: u16, fill: impl FnOnce(&mut Vec<u8>) -> [u16; 3]) -> Vec<u8> {
        let mut out = self.head().to_vec();
        let (rd, cd) = self.flags();
        // QR and AA; RA and the low bits of the code.
        let opcode = out.get(2).copied().unwrap_or(0) & 0x78;
        put(&mut out, 2, &[0x84 | opcode | rd]);
        put(&mut out, 3, &[0x80 | cd | (rcode & 0x0f) as u8]);
        put(&mut out, 6, &[0; 6]);
        let counts = fill(&mut out);
        for (at, count) in [6, 8, 10].into_iter().zip(counts) {
            put(&mut out, at, &count.to_be_bytes());
        }
        if self.has_edns() {
            let dnssec = if self.dnssec_ok() { DNSSEC_OK } else { 0 };
            push_opt(&mut out, 0, UDP_SIZE, (u32::from(rcode) >> 4) << 24 | dnssec, &[]);
        }
        out
    }

    /// An answer without records that is not authoritative: a refusal.
    pub(crate) fn refuse(&self, rcode: u16) -> Vec<u8> {
        let mut out = self.reply(rcode, |_| [0; 3]);
        if let Some(flags) = out.get_mut(2) {
            *flags &= !0x04;
        }
        out
    }
}
