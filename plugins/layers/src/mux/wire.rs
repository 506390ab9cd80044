//! What sing-mux itself says: at the start of a session, at the start of each stream, and when Brutal is agreed on.
//! Without I/O (sing-mux, protocol.go and brutal.go).

use crosspoint_kernel::addr::{Host, Target};

use crate::address::{self, AddressError};

/// The destination that names a session, and its port.
pub const DESTINATION: (&str, u16) = ("sp.mux.sing-box.arpa", 444);

/// The destination of the stream on which both sides tell how fast they may be sent to.
pub const BRUTAL: &str = "_BrutalBwExchange";

/// Lowest rate of Brutal in bytes per second.
pub const BRUTAL_LEAST: u64 = 65_536;

/// Padding of a session's request and of its first frames is this long at least, and shorter than [`PADDING_END`].
pub const PADDING: u16 = 256;
/// See [`PADDING`].
pub const PADDING_END: u16 = 256 + 512;

/// Longest error message that is read.
pub const MESSAGE: usize = 4096;

/// How a session's streams share the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// smux, version 1.
    Smux,
    /// yamux.
    Yamux,
    /// HTTP/2.
    H2,
}

impl Protocol {
    /// The protocol of that name; the empty one is the default.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" | "h2mux" => Some(Self::H2),
            "smux" => Some(Self::Smux),
            "yamux" => Some(Self::Yamux),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Smux => 0,
            Self::Yamux => 1,
            Self::H2 => 2,
        }
    }
}

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More bytes are needed: this many in all, as far as can be told.
    #[error("message incomplete")]
    Incomplete(usize),
    /// A version that nobody knows.
    #[error("unsupported version: {0}")]
    Version(u8),
    /// A protocol that nobody knows.
    #[error("unexpected protocol {0}")]
    Protocol(u8),
    /// A truth value that is neither 0 nor 1, or a state that nobody knows.
    #[error("malformed message")]
    Malformed,
    /// A message longer than [`MESSAGE`].
    #[error("message too long")]
    Long,
    /// The destination is malformed.
    #[error(transparent)]
    Address(AddressError),
}

impl From<AddressError> for HeadError {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Incomplete(len) => Self::Incomplete(len),
            error => Self::Address(error),
        }
    }
}

/// The first bytes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How streams share it.
    pub protocol: Protocol,
    /// Whether its first frames are padded.
    pub padding: bool,
}

impl Request {
    /// Reads a request from the front, and its length with padding in bytes. The padding need not be there yet.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), HeadError> {
        let at = |n: usize| bytes.get(n).copied().ok_or(HeadError::Incomplete(n + 1));
        let version = at(0)?;
        if version > 1 {
            return Err(HeadError::Version(version));
        }
        let protocol = match at(1)? {
            0 => Protocol::Smux,
            1 => Protocol::Yamux,
            2 => Protocol::H2,
            other => return Err(HeadError::Protocol(other)),
        };
        // Any number but 0 is true, as Go reads it.
        if version == 0 || at(2)? == 0 {
            return Ok((Self { protocol, padding: false }, 2 + usize::from(version)));
        }
        let (high, low) = (at(3).map_err(|_| HeadError::Incomplete(5))?, at(4)?);
        let len = 5 + usize::from(u16::from_be_bytes([high, low]));
        Ok((Self { protocol, padding: true }, len))
    }

    /// Appends the request. `padding` is how many bytes of padding it has, if it has any.
    pub fn emit(self, padding: u16, out: &mut Vec<u8>) {
        out.extend([u8::from(self.padding), self.protocol.number()]);
        if self.padding {
            out.push(1);
            out.extend(padding.to_be_bytes());
            out.resize(out.len() + usize::from(padding), 0);
        }
    }
}

const UDP: u16 = 1;
const ADDRESSED: u16 = 2;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Bytes.
    Stream,
    /// Datagrams to and from one destination.
    Datagrams,
    /// Datagrams, each with its destination or source.
    Addressed,
}

/// The first bytes of a stream from its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRequest {
    /// What it carries.
    pub carries: Carries,
    /// Where to.
    pub target: Target,
}

impl StreamRequest {
    /// Reads a request from the front, and its length in bytes.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), HeadError> {
        let Some((flags, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(HeadError::Incomplete(2));
        };
        let flags = u16::from_be_bytes(*flags);
        let carries = match (flags & UDP != 0, flags & ADDRESSED != 0) {
            (false, _) => Carries::Stream,
            (true, false) => Carries::Datagrams,
            (true, true) => Carries::Addressed,
        };
        let (target, len) = address::parse(rest).map_err(|error| match error {
            AddressError::Incomplete(len) => HeadError::Incomplete(2 + len),
            error => HeadError::Address(error),
        })?;
        Ok((Self { carries, target }, 2 + len))
    }

    /// Appends the request.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let flags = match self.carries {
            Carries::Stream => 0,
            Carries::Datagrams => UDP,
            Carries::Addressed => UDP | ADDRESSED,
        };
        out.extend(flags.to_be_bytes());
        address::emit(&self.target, out);
    }
}

/// The first bytes of a stream from its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamResponse {
    /// What was asked for follows.
    Success,
    /// It failed, with this message.
    Failure(String),
}

impl StreamResponse {
    /// Reads a response from the front, and its length in bytes.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), HeadError> {
        match bytes.split_first().ok_or(HeadError::Incomplete(1))? {
            (1, rest) => {
                let (text, len) = parse_text(rest).map_err(|error| deeper(error, 1))?;
                Ok((Self::Failure(text), 1 + len))
            }
            // The reference takes every other number for success.
            _ => Ok((Self::Success, 1)),
        }
    }

    /// Appends the response.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Success => out.push(0),
            Self::Failure(text) => {
                out.push(1);
                emit_text(text, out);
            }
        }
    }
}

/// What a server answers to the rate of a client: how fast it may be sent to, or why Brutal is not used.
pub type BrutalResponse = Result<u64, String>;

/// Reads a server's answer about Brutal, and its length in bytes.
///
/// # Errors
/// See [`HeadError`].
pub fn parse_brutal(bytes: &[u8]) -> Result<(BrutalResponse, usize), HeadError> {
    let (ok, rest) = bytes.split_first().ok_or(HeadError::Incomplete(1))?;
    if *ok == 0 {
        let (text, len) = parse_text(rest).map_err(|error| deeper(error, 1))?;
        return Ok((Err(text), 1 + len));
    }
    let rate = rest.first_chunk::<8>().ok_or(HeadError::Incomplete(9))?;
    Ok((Ok(u64::from_be_bytes(*rate)), 9))
}

/// Appends an answer about Brutal.
pub fn emit_brutal(response: &BrutalResponse, out: &mut Vec<u8>) {
    out.push(u8::from(response.is_ok()));
    match response {
        Ok(rate) => out.extend(rate.to_be_bytes()),
        Err(text) => emit_text(text, out),
    }
}

/// Whether a destination names a session.
#[must_use]
pub fn is_session(target: &Target) -> bool {
    target.port == DESTINATION.1
        && matches!(&target.host, Host::Name(name) if **name == *DESTINATION.0)
}

fn deeper(error: HeadError, by: usize) -> HeadError {
    match error {
        HeadError::Incomplete(len) => HeadError::Incomplete(len + by),
        error => error,
    }
}

/// A length as Go's `binary.PutUvarint` writes it, and text.
fn parse_text(bytes: &[u8]) -> Result<(String, usize), HeadError> {
    let mut len = 0usize;
    for at in 0..3 {
        let byte = *bytes.get(at).ok_or(HeadError::Incomplete(at + 1))?;
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if len > MESSAGE {
                return Err(HeadError::Long);
            }
            let end = at + 1 + len;
            let text = bytes.get(at + 1..end).ok_or(HeadError::Incomplete(end))?;
            return Ok((String::from_utf8_lossy(text).into_owned(), end));
        }
    }
    Err(HeadError::Long)
}

fn emit_text(text: &str, out: &mut Vec<u8>) {
    let mut end = text.len().min(MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut len = end;
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(&text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_look_as_in_the_reference() {
        let mut out = Vec::new();
        Request { protocol: Protocol::Yamux, padding: false }.emit(300, &mut out);
        assert_eq!(out, [0, 1]);
        out.clear();
        Request { protocol: Protocol::H2, padding: true }.emit(256, &mut out);
        assert_eq!((&out[..5], out.len()), (&[1, 2, 1, 1, 0][..], 5 + 256));
        let request =
            StreamRequest { carries: Carries::Addressed, target: Target::new("192.0.2.1", 53) };
        out.clear();
        request.emit(&mut out);
        assert_eq!(out, [0, 3, 1, 192, 0, 2, 1, 0, 53]);
        out.clear();
        StreamResponse::Failure("no".to_owned()).emit(&mut out);
        assert_eq!(out, [1, 2, b'n', b'o']);
        out.clear();
        emit_brutal(&Ok(65_536), &mut out);
        assert_eq!(out, [1, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(Request::parse(&[2, 0]), Err(HeadError::Version(2)));
        assert_eq!(Request::parse(&[0, 3]), Err(HeadError::Protocol(3)));
        assert_eq!(Request::parse(&[1, 2, 1, 1]), Err(HeadError::Incomplete(5)));
        assert_eq!(StreamResponse::parse(&[1, 0xff, 0xff, 0xff, 0x7f]), Err(HeadError::Long));
        assert_eq!(StreamResponse::parse(&[1, 0x80, 0x40]), Err(HeadError::Long));
        assert_eq!(StreamResponse::parse(&[1]), Err(HeadError::Incomplete(2)));
    }

    fn grows<T: PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        parse: impl Fn(&[u8]) -> Result<(T, usize), HeadError>,
        whole: &T,
    ) -> Result<(), TestCaseError> {
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Err(HeadError::Incomplete(need)) => prop_assert!(need > cut && need <= bytes.len()),
                other => prop_assert!(false, "{other:?} after {cut} bytes"),
            }
        }
        let (parsed, len) = parse(bytes).unwrap();
        prop_assert_eq!(&parsed, whole);
        prop_assert_eq!(len, bytes.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: std::net::IpAddr, port: u16, kind in 0..3u8, text in "\\PC{0,200}", rate: u64, ok: bool) {
            let carries = [Carries::Stream, Carries::Datagrams, Carries::Addressed][usize::from(kind)];
            let request = StreamRequest { carries, target: Target { host: ip.into(), port } };
            let mut out = Vec::new();
            request.emit(&mut out);
            grows(&out, StreamRequest::parse, &request)?;
            let response = StreamResponse::Failure(text.clone());
            out.clear();
            response.emit(&mut out);
            grows(&out, StreamResponse::parse, &response)?;
            let brutal = if ok { Ok(rate) } else { Err(text) };
            out.clear();
            emit_brutal(&brutal, &mut out);
            grows(&out, parse_brutal, &brutal)?;
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
            let _ = StreamRequest::parse(&bytes);
            let _ = StreamResponse::parse(&bytes);
            let _ = parse_brutal(&bytes);
        }
    }
}
