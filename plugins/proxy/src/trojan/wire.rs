//! Requests and datagrams of Trojan, without any I/O.
//!
//! Request: 56 hexadecimal digits of SHA-224 of the password, CRLF, command, destination, CRLF, payload. Datagram:
//! destination, length (2 bytes), CRLF, payload.

use std::io;

use crosspoint_kernel::{addr::Target, flow::MAX_DATAGRAM};

use crate::{
    address::{self, AddressError},
    framed::{Frame, Framing},
};

/// Length of a key in a request.
pub const KEY: usize = 56;

const CRLF: [u8; 2] = *b"\r\n";

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A stream.
    Connect,
    /// Datagrams.
    Associate,
    /// Several streams (trojan-go).
    Mux,
}

impl Command {
    fn code(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::Associate => 3,
            Self::Mux => 0x7f,
        }
    }

    fn of(code: u8) -> Result<Self, RequestError> {
        match code {
            1 => Ok(Self::Connect),
            3 => Ok(Self::Associate),
            0x7f => Ok(Self::Mux),
            other => Err(RequestError::Command(other)),
        }
    }
}

/// The key of a password, as it stands in requests.
#[must_use]
pub fn key(password: &str) -> [u8; KEY] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA224, password.as_bytes());
    let mut key = [0; KEY];
    for (pair, byte) in key.chunks_exact_mut(2).zip(hash.as_ref()) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    key
}

/// Whether these bytes may be the beginning of a key: what cannot be is somebody else's protocol.
#[must_use]
pub fn may_be_key(bytes: &[u8]) -> bool {
    bytes.iter().take(KEY).all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A request.
#[must_use]
pub fn emit_request(key: &[u8; KEY], command: Command, target: &Target) -> Vec<u8> {
    let mut out = Vec::with_capacity(KEY + 5 + address::MAX);
    out.extend(key);
    out.extend(CRLF);
    out.push(command.code());
    address::emit(target, &mut out);
    out.extend(CRLF);
    out
}

/// Why a request is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More bytes are needed: this many in all, as far as can be told.
    #[error("request incomplete")]
    Incomplete(usize),
    /// The command is unknown.
    #[error("unknown command {0}")]
    Command(u8),
    /// The destination.
    #[error(transparent)]
    Address(AddressError),
    /// A line does not end where it should.
    #[error("malformed request")]
    Malformed,
}

/// Reads what follows the key: command, destination, and the length of it all.
///
/// # Errors
/// See [`RequestError`].
pub fn parse_request(bytes: &[u8]) -> Result<(Command, Target, usize), RequestError> {
    let crlf = |at: usize| match bytes.get(at..at + 2) {
        None => Err(RequestError::Incomplete(at + 2)),
        Some(end) if end == CRLF => Ok(()),
        Some(_) => Err(RequestError::Malformed),
    };
    crlf(0)?;
    let command = Command::of(*bytes.get(2).ok_or(RequestError::Incomplete(3))?)?;
    let (target, len) = match address::parse(&bytes[3..]) {
        Ok(found) => found,
        Err(AddressError::Incomplete(len)) => return Err(RequestError::Incomplete(3 + len)),
        Err(error) => return Err(RequestError::Address(error)),
    };
    crlf(3 + len)?;
    Ok((command, target, 3 + len + 2))
}

/// Longest beginning of a stream of trojan-go.
pub const MOST_MUX: usize = 1 + address::MAX;

/// Appends the beginning of a stream of trojan-go: command, destination.
pub fn emit_mux(command: Command, target: &Target, out: &mut Vec<u8>) {
    out.push(command.code());
    address::emit(target, out);
}

/// Reads the beginning of a stream of trojan-go, and its length.
///
/// # Errors
/// See [`RequestError`].
pub fn parse_mux(bytes: &[u8]) -> Result<(Command, Target, usize), RequestError> {
    let Some((code, rest)) = bytes.split_first() else { return Err(RequestError::Incomplete(1)) };
    let command = Command::of(*code)?;
    match address::parse(rest) {
        Ok((target, len)) => Ok((command, target, 1 + len)),
        Err(AddressError::Incomplete(len)) => Err(RequestError::Incomplete(1 + len)),
        Err(error) => Err(RequestError::Address(error)),
    }
}

/// Datagrams in a stream.
#[derive(Debug, Default)]
pub struct Datagrams;

impl Framing for Datagrams {
    fn parse(&mut self, bytes: &[u8]) -> io::Result<Frame> {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, error.to_string())
        };
        let (peer, at) = match address::parse(bytes) {
            Ok(found) => found,
            Err(AddressError::Incomplete(len)) => return Ok(Frame::Need(len + 4)),
            Err(error) => return Err(invalid(&error)),
        };
        let Some(&[high, low, cr, lf]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(Frame::Need(at + 4));
        };
        if [cr, lf] != CRLF {
            return Err(invalid(&"malformed datagram"));
        }
        let start = at + 4;
        let end = start + usize::from(u16::from_be_bytes([high, low]));
        if bytes.len() < end {
            return Ok(Frame::Need(end));
        }
        Ok(Frame::Datagram { peer, payload: start..end, used: end })
    }

    fn emit(&mut self, peer: &Target, payload: &[u8], out: &mut Vec<u8>) -> bool {
        if payload.len() > MAX_DATAGRAM {
            return false;
        }
        address::emit(peer, out);
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(CRLF);
        out.extend(payload);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_hexadecimal() {
        // `printf password | openssl dgst -sha224`
        assert_eq!(key("password"), *b"d63dc919e201d7bc4c825630d2cf25fdc93d4b2f0d46706d29038d01");
        assert!(may_be_key(&key("x")));
        assert!(!may_be_key(b"GET / HTTP/1.1"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let target = Target::new("a.test", 443);
        let request = emit_request(&key(""), Command::Connect, &target);
        let rest = &request[KEY..];
        assert_eq!(parse_request(rest), Ok((Command::Connect, target, rest.len())));
        for cut in 0..rest.len() {
            assert!(matches!(parse_request(&rest[..cut]), Err(RequestError::Incomplete(_))));
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = rest.to_vec();
            bytes[at] = byte;
            parse_request(&bytes)
        };
        assert_eq!(changed(0, b'x'), Err(RequestError::Malformed));
        assert_eq!(changed(2, 9), Err(RequestError::Command(9)));
        assert_eq!(changed(3, 9), Err(RequestError::Address(AddressError::Type(9))));
        assert_eq!(changed(rest.len() - 1, 9), Err(RequestError::Malformed));
    }

    proptest! {
        #[test]
        fn datagrams_come_back(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..5)) {
            let mut bytes = Vec::new();
            let peer = Target::new("192.0.2.1", 53);
            for payload in &payloads {
                prop_assert!(Datagrams.emit(&peer, payload, &mut bytes));
            }
            let mut at = 0;
            for expected in &payloads {
                let Frame::Datagram { peer: from, payload, used } = Datagrams.parse(&bytes[at..]).unwrap() else {
                    panic!("incomplete")
                };
                prop_assert_eq!((&bytes[at..][payload], &from), (&expected[..], &peer));
                at += used;
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn beginnings_of_streams_come_back(udp: bool, peer: std::net::SocketAddr, tail: Vec<u8>) {
            let (command, target) = (if udp { Command::Associate } else { Command::Connect }, Target::from(peer));
            let mut bytes = Vec::new();
            emit_mux(command, &target, &mut bytes);
            let end = bytes.len();
            for cut in 0..end {
                prop_assert!(matches!(parse_mux(&bytes[..cut]), Err(RequestError::Incomplete(n)) if n > cut && n <= end));
            }
            bytes.extend(tail);
            prop_assert_eq!(parse_mux(&bytes), Ok((command, target, end)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse_mux(&bytes);
            let _ = parse_request(&bytes);
            let _ = Datagrams.parse(&bytes);
        }
    }
}
