//! The request of version 2, and datagrams in streams. Without I/O.

use std::io;

use crosspoint_kernel::addr::Target;

use crate::{
    address::{self, AddressError, Families},
    framed::{Frame, Framing},
};

/// The first bytes of a stream of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// All datagrams go to and come from the target; they have no address then.
    pub connect: bool,
    /// The target, or the first of several.
    pub target: Target,
}

impl Request {
    /// Reads a request from the front, and its length in bytes.
    ///
    /// # Errors
    /// The destination is incomplete or malformed.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), AddressError> {
        let (connect, rest) = bytes.split_first().ok_or(AddressError::Incomplete(1))?;
        let (target, len) = address::parse(rest).map_err(|error| match error {
            AddressError::Incomplete(len) => AddressError::Incomplete(1 + len),
            error => error,
        })?;
        Ok((Self { connect: *connect != 0, target }, 1 + len))
    }

    /// Appends the request.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.connect));
        address::emit(&self.target, out);
    }
}

/// Datagrams in a stream: an address if there are several peers, a length of two bytes, the payload.
#[derive(Clone, Debug)]
pub struct Datagrams {
    /// How addresses are written.
    pub families: Families,
    /// The one peer, if there is only one.
    pub peer: Option<Target>,
}

impl Datagrams {
    /// With an address in each.
    #[must_use]
    pub fn addressed(families: Families) -> Self {
        Self { families, peer: None }
    }
}

impl Framing for Datagrams {
    fn parse(&mut self, bytes: &[u8]) -> io::Result<Frame> {
        let (peer, at) = match &self.peer {
            Some(peer) => (peer.clone(), 0),
            None => match self.families.parse(bytes) {
                Ok(parsed) => parsed,
                Err(AddressError::Incomplete(len)) => return Ok(Frame::Need(len)),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            },
        };
        let Some(len) = bytes.get(at..at + 2) else { return Ok(Frame::Need(at + 2)) };
        let begin = at + 2;
        let end = begin + usize::from(u16::from_be_bytes([len[0], len[1]]));
        if bytes.len() < end {
            return Ok(Frame::Need(end));
        }
        Ok(Frame::Datagram { peer, payload: begin..end, used: end })
    }

    fn emit(&mut self, peer: &Target, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let Ok(len) = u16::try_from(payload.len()) else { return false };
        if self.peer.is_none() {
            self.families.emit(peer, out);
        }
        out.extend(len.to_be_bytes());
        out.extend_from_slice(payload);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_look_as_in_the_reference() {
        let mut out = Vec::new();
        Request { connect: true, target: Target::new("192.0.2.1", 53) }.emit(&mut out);
        assert_eq!(out, [1, 1, 192, 0, 2, 1, 0, 53]);
        out.clear();
        let mut datagrams = Datagrams::addressed(address::UOT);
        assert!(datagrams.emit(&Target::new("a.b", 53), b"xy", &mut out));
        assert_eq!(out, [2, 3, b'a', b'.', b'b', 0, 53, 0, 2, b'x', b'y']);
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: std::net::IpAddr, port: u16, one: bool, socks: bool, payload: Vec<u8>, tail: Vec<u8>) {
            let target = Target { host: ip.into(), port };
            let request = Request { connect: one, target: target.clone() };
            let mut out = Vec::new();
            request.emit(&mut out);
            for cut in 0..out.len() {
                let need = match Request::parse(&out[..cut]) {
                    Err(AddressError::Incomplete(need)) => need,
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                };
                prop_assert!(need > cut && need <= out.len());
            }
            prop_assert_eq!(Request::parse(&out), Ok((request, out.len())));

            let families = if socks { address::SOCKS } else { address::UOT };
            let mut datagrams = Datagrams { families, peer: one.then(|| target.clone()) };
            out.clear();
            prop_assert!(datagrams.emit(&target, &payload, &mut out));
            let end = out.len();
            for cut in 0..end {
                let Frame::Need(need) = datagrams.parse(&out[..cut]).unwrap() else {
                    return Err(TestCaseError::fail("a datagram of half the bytes"));
                };
                prop_assert!(need > cut && need <= end);
            }
            out.extend(tail);
            let Frame::Datagram { peer, payload: at, used } = datagrams.parse(&out).unwrap() else {
                return Err(TestCaseError::fail("no datagram"));
            };
            prop_assert_eq!((peer, &out[at], used), (target, &payload[..], end));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
            let _ = Datagrams::addressed(address::UOT).parse(&bytes);
            let _ = Datagrams { families: address::UOT, peer: Some(Target::unspecified()) }.parse(&bytes);
        }
    }
}
