//! Requests, responses and datagrams of VLESS, without any I/O.
//!
//! Request: version (0), id (16 bytes), length of the addons, addons, command, and, unless the command is "mux", the
//! destination (port, type, address). Addons are a message of protobuf (Xray, `proxy/vless/encoding/addons.proto`): field 1
//! is the flow. Response: version, length of the addons, addons. Datagram: length (2 bytes), payload.

use std::io;

use crosspoint_kernel::{addr::Target, flow::MAX_DATAGRAM};
use crosspoint_layers::framed::{Frame, Framing};
use crosspoint_layers::packets::address::{self, AddressError};

use crate::uuid::Uuid;

const VERSION: u8 = 0;

/// Tag of the flow in addons: field 1, bytes.
const FLOW: u8 = 1 << 3 | 2;

/// Longest request.
pub const MAX_REQUEST: usize = 1 + 16 + 1 + 255 + 1 + address::MAX;

/// The response of a server: it has no addons.
pub const RESPONSE: [u8; 2] = [VERSION, 0];

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A stream.
    Tcp,
    /// Datagrams with one peer.
    Udp,
    /// mux.cool, or XUDP.
    Mux,
    /// What nobody knows.
    Other(u8),
}

impl Command {
    fn code(self) -> u8 {
        match self {
            Self::Tcp => 1,
            Self::Udp => 2,
            Self::Mux => 3,
            Self::Other(code) => code,
        }
    }

    fn of(code: u8) -> Self {
        match code {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Mux,
            other => Self::Other(other),
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who.
    pub id: Uuid,
    /// How the payload is shaped; empty for not at all.
    pub flow: String,
    /// What.
    pub command: Command,
    /// Where to; nowhere for [`Command::Mux`].
    pub target: Option<Target>,
}

/// Appends a request. `flow` has at most 127 bytes, more are cut off; `target` is not looked at for [`Command::Mux`].
pub fn emit_request(id: &Uuid, flow: &str, command: Command, target: &Target, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend(id);
    let flow = &flow.as_bytes()[..flow.len().min(127)];
    if flow.is_empty() {
        out.push(0);
    } else {
        out.push(flow.len() as u8 + 2);
        out.extend([FLOW, flow.len() as u8]);
        out.extend(flow);
    }
    out.push(command.code());
    if command != Command::Mux {
        address::emit(target, out);
    }
}

/// Why bytes are no request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes are needed: this many in all, as far as can be told.
    #[error("incomplete")]
    Incomplete(usize),
    /// Another version.
    #[error("unknown version: {0}")]
    Version(u8),
    /// The addons do not begin with the flow.
    #[error("unknown protobuf message header: {0}")]
    Header(u8),
    /// The addons are malformed.
    #[error("malformed addons")]
    Addons,
    /// The destination.
    #[error(transparent)]
    Address(AddressError),
}

/// Reads a request from the front; returns it and its length in bytes.
///
/// # Errors
/// See [`WireError`].
pub fn parse_request(bytes: &[u8]) -> Result<(Request, usize), WireError> {
    let need = |len: usize| bytes.get(..len).ok_or(WireError::Incomplete(len));
    let version = need(1)?[0];
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let Some((id, addons)) = need(18)?[1..].split_first_chunk() else {
        return Err(WireError::Incomplete(18));
    };
    let addons = usize::from(addons[0]);
    let at = 18 + addons;
    let flow = parse_addons(&need(at)?[18..])?;
    let command = Command::of(need(at + 1)?[at]);
    let (target, len) = match command {
        Command::Mux => (None, at + 1),
        _ => match address::parse(&bytes[at + 1..]) {
            Ok((target, len)) => (Some(target), at + 1 + len),
            Err(AddressError::Incomplete(len)) => return Err(WireError::Incomplete(at + 1 + len)),
            Err(error) => return Err(WireError::Address(error)),
        },
    };
    Ok((Request { id: *id, flow, command, target }, len))
}

/// The flow in the addons. What follows it (a seed, which nobody uses) is passed over.
fn parse_addons(bytes: &[u8]) -> Result<String, WireError> {
    let Some((header, rest)) = bytes.split_first() else { return Ok(String::new()) };
    if *header != FLOW {
        return Err(WireError::Header(*header));
    }
    // At most 255 bytes: a length has one or two digits to the base of 128.
    let (len, rest) = match rest {
        [len @ 0..=0x7f, rest @ ..] => (usize::from(*len), rest),
        [low, 1, rest @ ..] => (usize::from(*low), rest),
        _ => return Err(WireError::Addons),
    };
    let flow = rest.get(..len).ok_or(WireError::Addons)?;
    String::from_utf8(flow.to_vec()).map_err(|_| WireError::Addons)
}

/// Datagrams with one peer, in a stream.
#[derive(Debug)]
pub struct Datagrams {
    peer: Target,
    /// Also those of others.
    any: bool,
}

impl Datagrams {
    /// All of them go to `peer`, or come from it.
    #[must_use]
    pub fn new(peer: Target) -> Self {
        Self { peer, any: false }
    }

    /// They go anywhere: what they carry says where to, or nobody wants to know.
    #[must_use]
    pub fn any(peer: Target) -> Self {
        Self { peer, any: true }
    }
}

impl Framing for Datagrams {
    fn parse(&mut self, bytes: &[u8]) -> io::Result<Frame> {
        let Some(len) = bytes.first_chunk() else { return Ok(Frame::Need(2)) };
        let used = 2 + usize::from(u16::from_be_bytes(*len));
        if bytes.len() < used {
            return Ok(Frame::Need(used));
        }
        Ok(Frame::Datagram { peer: self.peer.clone(), payload: 2..used, used })
    }

    fn emit(&mut self, peer: &Target, payload: &[u8], out: &mut Vec<u8>) -> bool {
        // The format cannot name another one, who must not get what is meant for somebody else.
        if payload.len() > MAX_DATAGRAM || !(self.any || *peer == self.peer) {
            return false;
        }
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = *b"0123456789abcdef";

    fn request(flow: &str, command: Command, target: &Target) -> Vec<u8> {
        let mut out = Vec::new();
        emit_request(&ID, flow, command, target, &mut out);
        out
    }

    #[test]
    fn as_others_write_it() {
        let bytes = request("xtls-rprx-vision", Command::Tcp, &Target::new("a.b", 443));
        let mut expected = vec![0];
        expected.extend(ID);
        expected.extend(b"\x12\x0a\x10xtls-rprx-vision\x01\x01\xbb\x02\x03a.b");
        assert_eq!(bytes, expected);
        let bytes = request("", Command::Mux, &Target::new("a.b", 443));
        assert_eq!(bytes[17..], [0, 3]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let good = request("xtls-rprx-vision", Command::Udp, &Target::new("192.0.2.1", 53));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            parse_request(&bytes)
        };
        assert_eq!(changed(0, 1), Err(WireError::Version(1)));
        assert_eq!(changed(18, 18), Err(WireError::Header(18)));
        assert_eq!(changed(19, 17), Err(WireError::Addons));
        assert_eq!(changed(19, 0xff), Err(WireError::Addons));
        assert_eq!(changed(20, 0xff), Err(WireError::Addons));
        assert_eq!(changed(39, 9), Err(WireError::Address(AddressError::Type(9))));
        assert_eq!(changed(36, 9).map(|(request, _)| request.command), Ok(Command::Other(9)));
    }

    #[test]
    fn addons_of_others() {
        // A seed behind the flow; a flow as long as it can be.
        assert_eq!(parse_addons(b"\x0a\x01x\x12\x02ab"), Ok("x".to_owned()));
        let mut long = vec![10, 0x80 | 122, 1];
        long.extend([b'x'; 250]);
        assert_eq!(parse_addons(&long).map(|flow| flow.len()), Ok(250));
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Tcp),
            Just(Command::Udp),
            Just(Command::Mux),
            (4u8..).prop_map(Command::Other)
        ]
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(id: Uuid, flow in "[a-z-]{0,127}", command in commands(), peer: std::net::SocketAddr, name in "[a-z.]{1,255}", named: bool, tail: Vec<u8>) {
            let target = if named { Target::new(&*name, peer.port()) } else { Target::from(peer) };
            let mut bytes = Vec::new();
            emit_request(&id, &flow, command, &target, &mut bytes);
            let end = bytes.len();
            prop_assert!(end <= MAX_REQUEST);
            for cut in 0..end {
                prop_assert!(matches!(parse_request(&bytes[..cut]), Err(WireError::Incomplete(n)) if n > cut && n <= end));
            }
            bytes.extend(tail);
            let target = (command != Command::Mux).then_some(target);
            prop_assert_eq!(parse_request(&bytes), Ok((Request { id, flow, command, target }, end)));
        }

        #[test]
        fn datagrams_come_back(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..5)) {
            let mut bytes = Vec::new();
            let peer = Target::new("192.0.2.1", 53);
            let mut datagrams = Datagrams::new(peer.clone());
            for payload in &payloads {
                prop_assert!(datagrams.emit(&peer, payload, &mut bytes));
                prop_assert!(!datagrams.emit(&Target::new("192.0.2.2", 53), payload, &mut bytes));
            }
            let mut at = 0;
            for expected in &payloads {
                let Frame::Datagram { payload, used, .. } = datagrams.parse(&bytes[at..]).unwrap() else {
                    panic!("incomplete")
                };
                prop_assert_eq!(&bytes[at..][payload], &expected[..]);
                at += used;
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse_request(&bytes);
            let _ = Datagrams::new(Target::unspecified()).parse(&bytes);
        }
    }
}
