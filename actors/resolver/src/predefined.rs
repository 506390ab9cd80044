//! The action `predefined`: answers from the configuration.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crosspoint_schema::options::{DnsPredefinedAction, DnsRecord, Rcode};

use crate::wire::{A, AAAA, Query};

/// A fixed answer.
#[derive(Debug)]
pub(crate) struct Predefined {
    code: Rcode,
    /// Answer, authority and additional section.
    sections: [Vec<DnsRecord>; 3],
}

impl Predefined {
    pub(crate) fn new(options: &DnsPredefinedAction) -> Self {
        let sections = [&options.answer, &options.ns, &options.extra];
        Self {
            code: options.rcode.unwrap_or_default(),
            sections: sections.map(|section| section.iter().cloned().collect()),
        }
    }

    /// The code; what does not fit into a message counts as "server failure".
    pub(crate) fn rcode(&self) -> u16 {
        u16::try_from(self.code.0).ok().filter(|code| *code < 0x1000).unwrap_or(2)
    }

    /// The answer to a query.
    pub(crate) fn reply(&self, query: &Query<'_>) -> Vec<u8> {
        query.reply(self.rcode(), |out| {
            let mut counts = [0; 3];
            for (section, count) in self.sections.iter().zip(&mut counts) {
                for record in section {
                    let mut wire = record.to_wire();
                    if let Some(name) = wildcard(&record.owner, query.wire_name()) {
                        wire.splice(..record.owner.len(), name.iter().copied());
                    }
                    // A message cannot be longer; what does not fit is left out.
                    if out.len() + wire.len() <= usize::from(u16::MAX) - 64 && *count < u16::MAX {
                        out.extend(wire);
                        *count += 1;
                    }
                }
            }
            counts
        })
    }

    /// The addresses in it.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let [answers, ..] = &self.sections;
        let address = |record: &DnsRecord| match record.rtype.0 {
            A => <[u8; 4]>::try_from(&*record.data).ok().map(|ip| Ipv4Addr::from(ip).into()),
            AAAA => <[u8; 16]>::try_from(&*record.data).ok().map(|ip| Ipv6Addr::from(ip).into()),
            _ => None,
        };
        answers.iter().filter_map(address).collect()
    }
}

/// The name of the query, where the owner is `*` or `*.` with an end of that name: RFC 1035 wire forms.
fn wildcard<'a>(owner: &[u8], name: &'a [u8]) -> Option<&'a [u8]> {
    let [1, b'*', rest @ ..] = owner else { return None };
    let mut tail = name;
    loop {
        if tail.eq_ignore_ascii_case(rest) {
            return Some(name);
        }
        let length = usize::from(*tail.first()?);
        tail = tail.get(1 + length..).filter(|_| length > 0)?;
    }
}

impl fmt::Display for Predefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "predefined({}", self.code)?;
        for record in self.sections.iter().flatten() {
            write!(f, ",{}", record.to_string().replace('\t', " "))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::ResponseCode, rr::RecordType};

    use super::*;
    use crate::message;

    fn record(line: &str) -> DnsRecord {
        DnsRecord::parse(line).unwrap()
    }

    #[test]
    fn fixed_records() {
        let predefined = Predefined {
            code: Rcode(0),
            sections: [
                vec![record("*.example.org. 60 IN A 192.0.2.1"), record("* 5 IN AAAA ::1")],
                vec![record("other. IN NS ns.other.")],
                vec![record("ns.other. IN A 192.0.2.2")],
            ],
        };
        let mut query =
            message::query(7, "Www.example.org", crosspoint_kernel::resolve::Family::V4).unwrap();
        query.set_edns(hickory_proto::op::Edns::new());
        let mut query = query.to_vec().unwrap();
        query[13] = b'W';
        let reply = predefined.reply(&Query::parse(&query).unwrap());
        let reply = message::read(&reply).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers[0].name.to_string(), "Www.example.org.");
        assert_eq!((reply.answers[0].ttl, reply.answers[1].ttl), (60, 5));
        assert_eq!(reply.answers[1].name.to_string(), "Www.example.org.");
        assert_eq!(reply.authorities[0].record_type(), RecordType::NS);
        assert_eq!(reply.additionals.len(), 1);
        assert!(reply.edns.is_some());
        assert_eq!(predefined.addresses().len(), 2);
        assert_eq!(
            predefined.to_string(),
            "predefined(NOERROR,*.example.org. 60 IN A 192.0.2.1,*. 5 IN AAAA ::1,other. 3600 IN NS ns.other.,\
             ns.other. 3600 IN A 192.0.2.2)"
        );
    }

    #[test]
    fn wildcards_are_whole_labels() {
        assert!(wildcard(b"\x01*\x03org\x00", b"\x07example\x03ORG\x00").is_some());
        assert!(wildcard(b"\x01*\x00", b"\x00").is_some());
        assert!(wildcard(b"\x01*\x02rg\x00", b"\x03org\x00").is_none());
        assert!(wildcard(b"\x03org\x00", b"\x03org\x00").is_none());
    }
}
