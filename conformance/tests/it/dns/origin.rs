//! DNS servers under a test's control: UDP and TCP on one port of loopback, answers by the first label of the name, and
//! a list of what was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use crosspoint_conformance::ports;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::svcb::{IpHint, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// One query as a server has seen it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The name, lower case, without the final dot.
    pub(super) name: String,
    /// All of it, for comparisons.
    pub(super) text: String,
}

/// A server. Ends with its last owner.
pub(super) struct Origin {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Origin {
    /// Starts a server on 127.0.0.1; `tag` is what `who` answers.
    pub(super) async fn start(tag: &'static str) -> Result<Self> {
        Self::bind(tag, SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()))).await
    }

    /// Starts a server at that address.
    pub(super) async fn bind(tag: &'static str, addr: SocketAddr) -> Result<Self> {
        let udp = Arc::new(UdpSocket::bind(addr).await?);
        let tcp = TcpListener::bind(addr).await?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let log = seen.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
                let Some(acts) = heard(tag, &buffer[..len], true, &log) else { continue };
                let udp = udp.clone();
                tokio::spawn(async move {
                    for act in acts {
                        match act {
                            Act::Wait(time) => tokio::time::sleep(time).await,
                            Act::Say(bytes) => drop(udp.send_to(&bytes, from).await),
                        }
                    }
                });
            }
        });
        let log = seen.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let log = log.clone();
                tokio::spawn(async move { drop(stream_of(tag, stream, &log).await) });
            }
        });
        Ok(Self { addr, seen, _tasks: tasks })
    }

    pub(super) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What was asked so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn stream_of(tag: &str, mut stream: TcpStream, log: &Log) -> Result<()> {
    loop {
        let mut message = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut message).await?;
        for act in heard(tag, &message, false, log).into_iter().flatten() {
            match act {
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Say(bytes) => {
                    stream.write_u16(u16::try_from(bytes.len())?).await?;
                    stream.write_all(&bytes).await?;
                }
            }
        }
    }
}

type Log = Mutex<Vec<Seen>>;

enum Act {
    Wait(Duration),
    Say(Vec<u8>),
}

/// Notes a query and decides what becomes of it.
fn heard(tag: &str, bytes: &[u8], udp: bool, log: &Log) -> Option<Vec<Act>> {
    let query = Message::from_vec(bytes).ok()?;
    let question = query.queries.first()?;
    let name = question.name().to_string().to_lowercase();
    let name = name.trim_end_matches('.').to_owned();
    let mut text = format!("{name} {}", question.query_type());
    text += if udp { " udp" } else { " tcp" };
    if let Some(edns) = &query.edns {
        text += &format!(" {}", edns_text(edns));
    }
    let seen = Seen { name: name.clone(), text };
    let first = {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let first = log.iter().all(|before| before.name != name);
        log.push(seen);
        first
    };
    let label = name.split('.').next().unwrap_or_default();
    let reply = reply(tag, &query, label);
    let mut bytes = reply.to_vec().ok()?;
    let limit = query.edns.as_ref().map_or(512, |edns| edns.max_payload().max(512));
    if udp && bytes.len() > usize::from(limit) {
        bytes = reply.truncate().to_vec().ok()?;
    }
    Some(match label {
        "hang" => Vec::new(),
        "lost" if first => Vec::new(),
        "slow" => vec![Act::Wait(Duration::from_millis(300)), Act::Say(bytes)],
        "garbage" => vec![Act::Say(vec![0xff; 40])],
        "half" => vec![Act::Say(bytes[..bytes.len() - 3].to_vec())],
        "wrongid" => {
            let mut wrong = bytes.clone();
            // Ids that follow each other are in use side by side.
            wrong[0] ^= 0x80;
            vec![Act::Say(wrong), Act::Say(bytes)]
        }
        _ => vec![Act::Say(bytes)],
    })
}

/// An EDNS record in words.
pub(super) fn edns_text(edns: &Edns) -> String {
    let mut text = format!("edns={}", edns.max_payload());
    if edns.flags().dnssec_ok {
        text += "+do";
    }
    if edns.flags().z != 0 {
        text += &format!("+z{:x}", edns.flags().z);
    }
    if edns.version() != 0 || edns.rcode_high() != 0 {
        text += &format!("+v{}.{}", edns.version(), edns.rcode_high());
    }
    if let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) {
        text += &format!("+ecs={}/{}", subnet.addr(), subnet.source_prefix());
    }
    text
}

/// The answer of the server `tag` to a name that begins with `label`.
fn reply(tag: &str, query: &Message, label: &str) -> Message {
    let question = &query.queries[0];
    let (name, kind) = (question.name().clone(), question.query_type());
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.queries = query.queries.clone();
    let v4 = |n: u8| RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
    let text = |said: &str| RData::TXT(TXT::new(vec![said.to_owned()]));
    let mut say = |ttl: u32, data: RData| {
        reply.add_answer(Record::from_rdata(name.clone(), ttl, data));
    };
    let mut missing = None;
    match (label, kind) {
        ("a" | "slow" | "lost" | "wrongid" | "half" | "flags", RecordType::A) => say(300, v4(1)),
        ("a", RecordType::AAAA) | ("six", RecordType::AAAA) => {
            say(300, RData::AAAA(AAAA("2001:db8::1".parse().unwrap_or([0; 16].into()))));
        }
        ("a", RecordType::MX) => say(300, RData::MX(MX::new(10, host("mail.a.test.")))),
        ("a", RecordType::HTTPS) => say(300, https()),
        ("many", RecordType::A) => (0..60).for_each(|n| say(300, v4(n))),
        ("huge", RecordType::A) => (0..=255).for_each(|n| say(300, v4(n))),
        ("a" | "long", RecordType::TXT) => {
            let count = if label == "a" { 1 } else { 12 };
            (0..count).for_each(|n| say(300, text(&format!("{n}{}", "x".repeat(99)))));
        }
        ("who", RecordType::TXT) => say(300, text(tag)),
        ("who", RecordType::A) => {
            say(300, v4(tag.bytes().fold(0, |sum, byte| sum ^ byte)));
        }
        ("private", RecordType::A) => say(300, RData::A(A(Ipv4Addr::new(10, 1, 2, 3)))),
        ("zero", RecordType::A) => say(0, v4(1)),
        ("ttls", RecordType::A) => {
            say(60, v4(1));
            say(300, v4(2));
        }
        ("edns", RecordType::TXT) => {
            say(300, text(&query.edns.as_ref().map_or_else(|| "none".to_owned(), edns_text)));
        }
        ("cname", _) => {
            say(100, RData::CNAME(CNAME(host("middle.test."))));
            let next = RData::CNAME(CNAME(host("a.test.")));
            reply.add_answer(Record::from_rdata(host("middle.test."), 200, next));
            if kind == RecordType::A {
                reply.add_answer(Record::from_rdata(host("a.test."), 300, v4(1)));
            }
        }
        ("dangling", _) => say(100, RData::CNAME(CNAME(host("nothing.test.")))),
        ("servfail", _) => reply.metadata.response_code = ResponseCode::ServFail,
        ("refused", _) => reply.metadata.response_code = ResponseCode::Refused,
        ("notimp", _) => reply.metadata.response_code = ResponseCode::NotImp,
        ("nx", _) => missing = Some((ResponseCode::NXDomain, true)),
        ("nxbare", _) => missing = Some((ResponseCode::NXDomain, false)),
        ("nodatabare", _) => missing = Some((ResponseCode::NoError, false)),
        _ => missing = Some((ResponseCode::NoError, true)),
    }
    if label == "ttls" {
        let server = Record::from_rdata(name, 900, RData::NS(NS(host("ns.test."))));
        reply.add_authority(server);
        reply.add_additional(Record::from_rdata(host("ns.test."), 30, v4(53)));
    }
    if label == "flags" {
        reply.metadata.authoritative = true;
        reply.metadata.authentic_data = true;
    }
    if let Some((code, soa)) = missing {
        reply.metadata.response_code = code;
        if soa {
            let (server, mail) = (host("ns.test."), host("mail.test."));
            let data = SOA::new(server, mail, 1, 3600, 600, 86_400, 60);
            reply.add_authority(Record::from_rdata(host("test."), 300, RData::SOA(data)));
        }
    }
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1400);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        if let Some(subnet @ EdnsOption::Subnet(_)) = asked.option(EdnsCode::Subnet) {
            edns.options_mut().insert(subnet.clone());
        }
        reply.set_edns(edns);
    }
    reply
}

fn host(name: &str) -> Name {
    Name::from_ascii(name).unwrap_or_else(|_| Name::root())
}

fn https() -> RData {
    let hint6: [AAAA; 1] = [AAAA("2001:db8::1".parse().unwrap_or([0; 16].into()))];
    let params = vec![
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A([192, 0, 2, 1].into())]))),
        (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(hint6.to_vec()))),
    ];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
}
