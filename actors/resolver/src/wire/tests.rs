//! By hand and by the library, the same.

use crosspoint_schema::decode::Prefix;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            self,
            opt::{ClientSubnet, EdnsOption},
        },
    },
};
use proptest::prelude::*;

use super::*;
use crate::message;

fn name() -> impl Strategy<Value = Name> {
    proptest::collection::vec("[a-zA-Z0-9]{1,12}", 0..6)
        .prop_map(|labels| Name::from_labels(labels.iter().map(String::as_bytes)).unwrap())
}

fn kind() -> impl Strategy<Value = RecordType> {
    prop_oneof![
        Just(RecordType::A),
        Just(RecordType::AAAA),
        Just(RecordType::HTTPS),
        Just(RecordType::TXT),
        Just(RecordType::NS),
    ]
}

fn edns() -> impl Strategy<Value = Option<Edns>> {
    let subnet = proptest::option::of((any::<[u8; 4]>(), 0u8..=32));
    let some = (any::<u16>(), any::<bool>(), subnet, any::<bool>()).prop_map(
        |(size, dnssec, subnet, cookie)| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(dnssec);
            if let Some((ip, bits)) = subnet {
                let subnet = ClientSubnet::new(std::net::IpAddr::from(ip), bits, 0);
                edns.options_mut().insert(EdnsOption::Subnet(subnet));
            }
            if cookie {
                edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
            }
            edns
        },
    );
    proptest::option::of(some)
}

fn query() -> impl Strategy<Value = Message> {
    (any::<u16>(), name(), kind(), edns(), any::<[bool; 2]>()).prop_map(
        |(id, name, kind, edns, [rd, cd])| {
            let mut query = Message::new(id, MessageType::Query, OpCode::Query);
            query.metadata.recursion_desired = rd;
            query.metadata.checking_disabled = cd;
            query.add_query(Question::query(name, kind));
            query.edns = edns;
            query
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| RData::A(rdata::A(ip.into()))),
        any::<[u8; 16]>().prop_map(|ip| RData::AAAA(rdata::AAAA(ip.into()))),
        name().prop_map(|name| RData::CNAME(rdata::CNAME(name))),
        "[ -~]{0,40}".prop_map(|text| RData::TXT(rdata::TXT::new(vec![text]))),
        (name(), any::<u32>()).prop_map(|(name, min)| RData::SOA(rdata::SOA::new(
            name.clone(),
            name,
            1,
            2,
            3,
            4,
            min
        ))),
    ];
    (name(), any::<u32>(), data).prop_map(|(name, ttl, data)| Record::from_rdata(name, ttl, data))
}

prop_compose! {
    /// An answer to a query, with all sections filled.
    fn exchange()(
        query in query(),
        sections in proptest::collection::vec(proptest::collection::vec(record(), 0..5), 3..4),
        edns in edns(),
        code in 0u8..6,
    ) -> (Message, Message) {
        let mut answer = message::reply(&query, hickory_proto::op::ResponseCode::from(0, code));
        for (record, section) in sections.into_iter().zip([
            &mut answer.answers,
            &mut answer.authorities,
            &mut answer.additionals,
        ]) {
            section.extend(record);
        }
        answer.edns = edns;
        (query, answer)
    }
}

/// The OPT record moved in front of the other additional records.
fn opt_first(answer: &Message) -> Vec<u8> {
    let mut bare = answer.clone();
    let others = std::mem::take(&mut bare.additionals);
    let mut out = bare.to_vec().unwrap();
    // Names are written without compression, so that they may stand anywhere.
    for record in &others {
        let mut one = Message::new(0, MessageType::Response, OpCode::Query);
        one.add_additional(record.clone());
        let start = HEADER;
        let one = one.to_vec().unwrap();
        let name_only = !one[start..].iter().any(|byte| byte >> 6 == 3);
        if name_only {
            out.extend(&one[start..]);
            let count = u16_at(&out, 10).unwrap() + 1;
            put(&mut out, 10, &count.to_be_bytes());
        }
    }
    out
}

proptest! {
    #[test]
    fn queries_are_read_as_the_library_reads_them(query in query()) {
        let bytes = query.to_vec().unwrap();
        let read = Query::parse(&bytes).unwrap();
        prop_assert_eq!(read.id(), query.metadata.id);
        prop_assert_eq!(read.qtype(), u16::from(query.queries[0].query_type()));
        let name = query.queries[0].name().to_lowercase().to_string();
        let name = if name == "." { ".".to_owned() } else { name.trim_end_matches('.').to_owned() };
        prop_assert_eq!(read.name(), name);
        prop_assert_eq!(read.has_edns(), query.edns.is_some());
        prop_assert!(read.is_plain());
        let edns = query.edns.as_ref();
        prop_assert_eq!(read.dnssec_ok(), edns.is_some_and(|edns| edns.flags().dnssec_ok));
        prop_assert_eq!(read.unchecked(), query.metadata.checking_disabled);
    }

    #[test]
    fn a_subnet_takes_the_place_of_another(query in query(), ip in any::<[u8; 4]>(), bits in 0u8..=32) {
        let bytes = query.to_vec().unwrap();
        let read = Query::parse(&bytes).unwrap();
        let subnet = Subnet::new(Prefix { addr: ip.into(), bits });
        let sent = read.with_subnet(&subnet);
        let again = Query::parse(&sent).unwrap();
        prop_assert_eq!(again.subnet(), Some(subnet));
        let sent = message::read(&sent).unwrap();
        let edns = sent.edns.unwrap();
        let subnets = edns.options().as_ref().iter().filter(|(code, _)| u16::from(*code) == 8);
        prop_assert_eq!(subnets.count(), 1);
        if let Some(before) = &query.edns {
            prop_assert_eq!(edns.max_payload(), before.max_payload());
            prop_assert_eq!(edns.flags().dnssec_ok, before.flags().dnssec_ok);
        }
        prop_assert_eq!(sent.queries, query.queries);
    }

    #[test]
    fn answers_are_patched_as_the_library_would(
        (query, answer) in exchange(), ttl in any::<u32>(), left in any::<u32>(), id in any::<u16>(),
    ) {
        let bytes = query.to_vec().unwrap();
        let asked = Query::parse(&bytes).unwrap();
        let wire = answer.to_vec().unwrap();
        let Ok(mut read) = Answer::read(wire, &asked) else { return Err(TestCaseError::fail("read")) };
        let smallest = answer.all_sections().map(|record| record.ttl).min().unwrap_or(0);
        if !answer.answers.is_empty() {
            prop_assert_eq!(read.ttl(), smallest);
        }
        read.set_ttl(ttl);
        let reply = read.into_reply(&asked, ttl, true);
        let mut other = query.clone();
        other.metadata.id = id;
        other.metadata.recursion_desired ^= true;
        let other = other.to_vec().unwrap();
        let mut out = vec![7];
        reply.render(&Query::parse(&other).unwrap(), left, &mut out);
        let told = message::read(&out[1..]).unwrap();
        prop_assert_eq!(told.metadata.id, id);
        prop_assert_eq!(told.metadata.recursion_desired, !query.metadata.recursion_desired);
        prop_assert_eq!(&told.queries, &query.queries);
        prop_assert_eq!(told.edns.is_some(), query.edns.is_some() && answer.edns.is_some());
        let plain = |message: &Message| {
            message.all_sections().map(|r| (r.name.clone(), r.data.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&told), plain(&answer));
        prop_assert!(told.all_sections().all(|record| record.ttl == left));
    }

    #[test]
    fn an_opt_record_may_stand_anywhere((query, answer) in exchange()) {
        let bytes = query.to_vec().unwrap();
        let asked = Query::parse(&bytes).unwrap();
        let wire = opt_first(&answer);
        let Ok(expected) = message::read(&wire) else { return Ok(()) };
        let read = Answer::read(wire, &asked).unwrap();
        let reply = read.into_reply(&asked, 1, true);
        let plain = message::read(reply.wire()).unwrap();
        prop_assert!(plain.edns.is_none());
        prop_assert_eq!(plain.answers, expected.answers);
        prop_assert_eq!(plain.additionals, expected.additionals);
    }

    #[test]
    fn nothing_that_comes_in_does_harm(
        (query, answer) in exchange(),
        noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
        question_too in any::<bool>(),
    ) {
        let mut asked = query.to_vec().unwrap();
        let mut wire = answer.to_vec().unwrap();
        for (at, byte) in noise {
            let at = at.index(wire.len());
            wire[at] = byte;
            if question_too && at < asked.len() {
                asked[at] = byte;
            }
        }
        wire.truncate(cut.index(wire.len() + 1).max(wire.len() / 2));
        told(&asked, wire.clone(), 5);
        told(&wire, asked, 5);
    }

    #[test]
    fn noise_is_no_query(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(query) = Query::parse(&bytes) {
            query.name();
            query.with_subnet(&Subnet::new(Prefix { addr: [1, 2, 3, 4].into(), bits: 24 }));
            let reply = query.reply(0, |_| [0; 3]);
            prop_assert!(reply.len() >= query.question_end());
        }
    }
}

#[test]
fn pointers_that_lead_nowhere() {
    let mut message = vec![0, 1, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    // A name that points at itself, forward, and in a circle.
    for pointer in [[0xc0, 12], [0xc0, 60], [0xc0, 14]] {
        message.truncate(HEADER);
        message.extend(pointer);
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]);
        assert_eq!(read_name(&message, HEADER), None);
    }
    assert_eq!(read_name(b"\x03a.b\x01\x07\x00", 0).as_deref(), Some(r"a\.b.\007"));
    assert_eq!(read_name(b"\x00", 0).as_deref(), Some("."));
    assert_eq!(skip_name(&[63; 400], 0), None, "too long");
}

#[test]
fn questions_are_made_of_any_name() {
    let wire = question("-a_b.Exämple.org", A).unwrap();
    let query = Query::parse(&wire).unwrap();
    assert_eq!((query.name().as_str(), query.qtype()), (r"-a_b.ex\195\164mple.org", A));
    assert!(query.is_plain() && query.flags() == (1, 0));
    assert_eq!(Query::parse(&question(".", AAAA).unwrap()).unwrap().name(), ".");
    for bad in ["", "a..b", ".a", &"x".repeat(64), &"abc.".repeat(70)] {
        assert!(question(bad, A).is_none(), "{bad}");
    }
}

#[test]
fn an_opt_record_is_one_of_the_additional_ones() {
    let mut asked = question("x", A).unwrap();
    push_opt(&mut asked, 0, 1232, 0, &[]);
    let with = |counts: [u8; 3], opts: usize| {
        let mut answer = question("x", A).unwrap();
        put(&mut answer, 2, &[0x81, 0x80]);
        (0..opts).for_each(|_| push_opt(&mut answer, 0, 1232, 0, &[]));
        put(&mut answer, 6, &[0, counts[0], 0, counts[1], 0, counts[2]]);
        told(&asked, answer, 5)
    };
    assert!(with([0, 0, 1], 1).is_some_and(|out| Query::parse(&out).is_err() && out.len() > 20));
    // Elsewhere, or twice; found by fuzzing.
    assert_eq!(with([1, 0, 0], 1), None);
    assert_eq!(with([0, 1, 0], 1), None);
    assert_eq!(with([0, 0, 2], 2), None);
}
