//! DNS messages as the resolver and DNS servers make and read them (RFC 1035, on hickory-proto).

use std::net::IpAddr;

use crosspoint_kernel::resolve::Family;
use hickory_proto::{
    ProtoError,
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
    serialize::binary::DecodeError,
};

/// Largest message over UDP without EDNS, in bytes.
pub const UDP_PLAIN: usize = 512;

/// A query for the addresses of `name` (without a final dot), with recursion desired.
///
/// # Errors
/// `name` is not a domain name.
pub fn query(id: u16, name: &str, family: Family) -> Result<Message, ProtoError> {
    let record_type = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let mut name = Name::from_utf8(name)?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    Ok(message)
}

/// Reads a message.
///
/// # Errors
/// It is none.
pub fn read(bytes: &[u8]) -> Result<Message, DecodeError> {
    Message::from_vec(bytes)
}

/// An empty answer to `query` with that code: same id, question and recursion flag.
#[must_use]
pub fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&query.queries);
    reply
}

/// An answer to `query` with those addresses, all of them valid for `ttl` seconds.
#[must_use]
pub fn reply_addresses(query: &Message, addresses: &[IpAddr], ttl: u32) -> Message {
    let mut reply = reply(query, ResponseCode::NoError);
    if let Some(question) = query.queries.first() {
        for address in addresses {
            let data = match address {
                IpAddr::V4(ip) => RData::A(rdata::A(*ip)),
                IpAddr::V6(ip) => RData::AAAA(rdata::AAAA(*ip)),
            };
            reply.add_answer(Record::from_rdata(question.name().clone(), ttl, data));
        }
    }
    reply
}

/// The addresses in an answer, in order.
pub fn addresses(message: &Message) -> impl Iterator<Item = IpAddr> + '_ {
    message.answers.iter().filter_map(|record| match &record.data {
        RData::A(rdata::A(ip)) => Some(IpAddr::V4(*ip)),
        RData::AAAA(rdata::AAAA(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}
