//! XUDP: datagrams in frames of mux.cool that belong to session 0, each with its peer. The first one opens the session
//! (sing-vmess `xudp.go`). It travels in a stream of the command "mux"; the server's end is [`mux_cool`](super::mux_cool).

use std::io;

use crosspoint_kernel::{
    addr::Target,
    flow::{BoxPacketIo, BoxStream, MAX_DATAGRAM},
    session::Network,
};

use super::mux_cool::frame::{self, Head, Parsed, Status};
use crate::framed::{Frame, Framed, Framing};

/// The client's end of an association, in a stream of the command "mux". `target` is whose datagrams those of the
/// server are that name no peer.
#[must_use]
pub fn client(stream: BoxStream, target: Target) -> BoxPacketIo {
    Framed::boxed(stream, Xudp::new(target), &[])
}

/// The frames of one association.
#[derive(Debug)]
pub struct Xudp {
    target: Target,
    open: bool,
}

impl Xudp {
    /// An association that is not open yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, open: false }
    }
}

impl Framing for Xudp {
    fn parse(&mut self, bytes: &[u8]) -> io::Result<Frame> {
        let (head, payload, used) = match frame::parse(bytes)? {
            Parsed::Need(len) => return Ok(Frame::Need(len)),
            Parsed::Frame { head, payload, used } => (head, payload, used),
        };
        match head.status {
            Status::New => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected new session"));
            }
            Status::End if head.error => return Err(io::ErrorKind::ConnectionReset.into()),
            Status::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            Status::Keep | Status::KeepAlive => {}
        }
        if head.error {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match payload {
            Some(payload) if head.status == Status::Keep => {
                let peer = head.to.map_or_else(|| self.target.clone(), |(_, peer)| peer);
                Ok(Frame::Datagram { peer, payload, used })
            }
            _ => Ok(Frame::Skip(used)),
        }
    }

    fn emit(&mut self, peer: &Target, payload: &[u8], out: &mut Vec<u8>) -> bool {
        if payload.len() > MAX_DATAGRAM {
            return false;
        }
        let status = if self.open { Status::Keep } else { Status::New };
        self.open = true;
        let head =
            Head { session: 0, status, error: false, to: Some((Network::Udp, peer.clone())) };
        frame::emit(&head, Some(payload), out);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.bytes().filter_map(|c| (c as char).to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn the_first_datagram_opens_the_session() {
        let mut xudp = Xudp::new(Target::new("192.0.2.1", 53));
        let mut out = Vec::new();
        assert!(xudp.emit(&Target::new("192.0.2.1", 53), b"a", &mut out));
        assert_eq!(out, hex("000c 0000 01 01 02 0035 01 c0000201 0001 61"));
        out.clear();
        assert!(xudp.emit(&Target::new("a.b", 54), b"", &mut out));
        assert_eq!(out, hex("000c 0000 02 01 02 0036 02 03612e62 0000"));
    }

    #[test]
    fn frames_of_the_server() {
        let me = Target::new("192.0.2.1", 53);
        let mut xudp = Xudp::new(me.clone());
        // Without a peer; with one; without data; the end; an error.
        let Ok(Frame::Datagram { peer, payload, used }) =
            xudp.parse(&hex("0004 0000 02 01 0002 6162"))
        else {
            panic!("no datagram")
        };
        assert_eq!((peer, payload, used), (me, 8..10, 10));
        assert!(matches!(
            xudp.parse(&hex("000c 0000 02 01 02 0035 01 c0000202 0000")),
            Ok(Frame::Datagram { peer, .. }) if peer == Target::new("192.0.2.2", 53)
        ));
        assert!(matches!(xudp.parse(&hex("0004 0000 04 00")), Ok(Frame::Skip(6))));
        let end = xudp.parse(&hex("0004 0000 03 00")).map(drop).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        let end = xudp.parse(&hex("0004 0000 03 02")).map(drop).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        assert!(xudp.parse(&hex("000c 0000 01 01 02 0035 01 c0000202 0000")).is_err());
    }

    proptest! {
        #[test]
        fn datagrams_come_back(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 2..5), port: u16) {
            let mut bytes = Vec::new();
            let (mut near, peer) = (Xudp::new(Target::unspecified()), Target::new("192.0.2.9", port));
            near.open = true;
            for payload in &payloads {
                prop_assert!(near.emit(&peer, payload, &mut bytes));
            }
            let mut at = 0;
            for expected in &payloads {
                let Ok(Frame::Datagram { peer: from, payload, used }) = near.parse(&bytes[at..]) else {
                    panic!("no datagram")
                };
                prop_assert_eq!((&bytes[at..][payload], &from), (&expected[..], &peer));
                at += used;
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Xudp::new(Target::unspecified()).parse(&bytes);
        }
    }
}
