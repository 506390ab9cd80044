//! A client that asks one question and says in words what it was told.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::origin::edns_text;

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) name: String,
    kind: RecordType,
    tcp: bool,
    edns: Option<u16>,
    dnssec: bool,
    subnet: Option<ClientSubnet>,
    no_recursion: bool,
    checking_disabled: bool,
    raw: Option<Vec<u8>>,
}

impl Ask {
    /// `NAME TYPE [tcp] [edns=SIZE] [do] [ecs=PREFIX] [norec] [cd]`
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let mut ask = Self {
            name: words.next().context("no name")?.to_owned(),
            kind: RecordType::from_str(words.next().context("no type")?)?,
            tcp: false,
            edns: None,
            dnssec: false,
            subnet: None,
            no_recursion: false,
            checking_disabled: false,
            raw: None,
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("tcp", _) => ask.tcp = true,
                ("edns", size) => ask.edns = Some(size.parse()?),
                ("do", _) => ask.dnssec = true,
                ("ecs", subnet) => ask.subnet = Some(subnet.parse()?),
                ("norec", _) => ask.no_recursion = true,
                ("cd", _) => ask.checking_disabled = true,
                other => anyhow::bail!("what is {other:?}?"),
            }
        }
        Ok(ask)
    }

    /// A message of its own.
    pub(super) fn raw(bytes: Vec<u8>, tcp: bool) -> Result<Self> {
        Ok(Self { raw: Some(bytes), tcp, ..Self::parse(". A")? })
    }

    /// The message.
    pub(super) fn message(&self, id: u16) -> Result<Vec<u8>> {
        if let Some(raw) = &self.raw {
            return Ok(raw.clone());
        }
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = !self.no_recursion;
        message.metadata.checking_disabled = self.checking_disabled;
        let mut name = Name::from_ascii(&self.name)?;
        name.set_fqdn(true);
        message.add_query(Query::query(name, self.kind));
        if self.edns.is_some() || self.dnssec || self.subnet.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(self.edns.unwrap_or(1232));
            edns.set_dnssec_ok(self.dnssec);
            if let Some(subnet) = self.subnet {
                edns.options_mut().insert(EdnsOption::Subnet(subnet));
            }
            message.set_edns(edns);
        }
        Ok(message.to_vec()?)
    }

    /// Asks, and says what came within `wait`.
    pub(super) async fn at(&self, server: SocketAddr, wait: Duration) -> Result<String> {
        let id = 0x5a00 | u16::try_from(self.name.len() & 0xff)?;
        let message = self.message(id)?;
        let answer = if self.tcp {
            over_tcp(server, &message, wait).await?
        } else {
            over_udp(server, &message, wait).await?
        };
        Ok(match answer {
            Ok(bytes) => said(&bytes, id),
            Err(what) => what.to_owned(),
        })
    }
}

type Answer = std::result::Result<Vec<u8>, &'static str>;

async fn over_udp(server: SocketAddr, message: &[u8], wait: Duration) -> Result<Answer> {
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; 65_535];
    Ok(match timeout(wait, socket.recv(&mut buffer)).await {
        Ok(len) => {
            buffer.truncate(len?);
            Ok(buffer)
        }
        Err(_) => Err("no answer"),
    })
}

async fn over_tcp(server: SocketAddr, message: &[u8], wait: Duration) -> Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(message)?).await?;
    let read = async {
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    Ok(match timeout(wait, read).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err("closed"),
        Err(_) => Err("no answer"),
    })
}

/// A message as it goes over a stream.
pub(super) fn framed(message: &[u8]) -> Result<Vec<u8>> {
    let mut framed = u16::try_from(message.len())?.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    Ok(framed)
}

/// An answer in words: code, flags, question, sections, EDNS.
pub(super) fn said(bytes: &[u8], id: u16) -> String {
    let Ok(message) = Message::from_vec(bytes) else {
        return format!("{} bytes that are no message", bytes.len());
    };
    let head = &message.metadata;
    let mut text = format!("{:?}", head.response_code);
    if head.id != id {
        text += " OTHER-ID";
    }
    if head.message_type != MessageType::Response {
        text += " NO-RESPONSE";
    }
    for (set, flag) in [
        (head.authoritative, "aa"),
        (head.truncation, "tc"),
        (head.recursion_desired, "rd"),
        (head.recursion_available, "ra"),
        (head.authentic_data, "ad"),
        (head.checking_disabled, "cd"),
    ] {
        if set {
            text += " ";
            text += flag;
        }
    }
    for query in &message.queries {
        text += &format!(" ? {} {}", query.name(), query.query_type());
    }
    for (mark, records) in
        [("=", &message.answers), ("@", &message.authorities), ("+", &message.additionals)]
    {
        let mut same = 0;
        for (at, record) in records.iter().enumerate() {
            // Of long lists the first ones and the number are enough.
            if at >= 4 {
                same += 1;
                continue;
            }
            let (name, ttl) = (&record.name, about(record.ttl));
            text += &format!(" {mark} {name} {ttl} {} {}", record.record_type(), record.data);
        }
        if same > 0 {
            text += &format!(" {mark} and {same} more");
        }
    }
    if let Some(edns) = &message.edns {
        text += &format!(" {}", edns_text(edns));
    }
    text
}

/// A TTL as it was a moment ago: those of our servers are multiples of ten.
fn about(ttl: u32) -> u32 {
    if ttl % 10 >= 7 { ttl.div_ceil(10) * 10 } else { ttl }
}
