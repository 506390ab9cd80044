//! Frames of mux.cool (v2fly `common/mux/frame.go`, sing-vmess `mux.go`): length of the head (2 bytes), session (2),
//! status, options; with a peer its network, port and address; with data its length (2 bytes) and the data.

use std::{io, ops::Range};

use crosspoint_kernel::{addr::Target, session::Network};

use crate::packets::address::{self, AddressError};

/// Longest head that is read: the longest name, and what Xray puts behind it, leave it far below.
const HEAD: usize = 1024;

const DATA: u8 = 1;
const ERROR: u8 = 2;

const TCP: u8 = 1;
const UDP: u8 = 2;

/// What a frame says of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It begins.
    New = 1,
    /// It goes on.
    Keep = 2,
    /// It ends.
    End = 3,
    /// Nothing.
    KeepAlive = 4,
}

/// What stands in front of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the session.
    pub session: u16,
    /// What happens to it.
    pub status: Status,
    /// It has failed.
    pub error: bool,
    /// Its destination, or the peer of the datagram.
    pub to: Option<(Network, Target)>,
}

/// What the front of a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No whole frame yet: this many bytes are needed at least.
    Need(usize),
    /// A frame.
    Frame {
        /// Its head.
        head: Head,
        /// Where its data lies, if it has any.
        payload: Option<Range<usize>>,
        /// How many bytes it takes in all.
        used: usize,
    },
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The head is too short or too long.
    #[error("bad frame of {0} bytes")]
    Length(usize),
    /// There is no such status.
    #[error("bad session status: {0}")]
    Status(u8),
    /// There is no such network.
    #[error("bad network: {0}")]
    Network(u8),
    /// The destination.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Reads the frame at the front. What follows the peer in a head (the identity of an association, in Xray) is passed over.
///
/// # Errors
/// See [`FrameError`].
pub fn parse(bytes: &[u8]) -> Result<Parsed, FrameError> {
    let Some(&[high, low, id0, id1, status, options]) = bytes.first_chunk() else {
        return Ok(Parsed::Need(6));
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(4..=HEAD).contains(&len) {
        return Err(FrameError::Length(len));
    }
    let status = match status {
        1 => Status::New,
        2 => Status::Keep,
        3 => Status::End,
        4 => Status::KeepAlive,
        other => return Err(FrameError::Status(other)),
    };
    let end = 2 + len;
    let Some(rest) = bytes.get(6..end) else { return Ok(Parsed::Need(end)) };
    let (payload, used) = if options & DATA == 0 {
        (None, end)
    } else {
        let Some(len) = bytes.get(end..).and_then(<[u8]>::first_chunk) else {
            return Ok(Parsed::Need(end + 2));
        };
        let used = end + 2 + usize::from(u16::from_be_bytes(*len));
        if bytes.len() < used {
            return Ok(Parsed::Need(used));
        }
        (Some(end + 2..used), used)
    };
    let to = match (status, rest.split_first()) {
        (Status::New, None) => return Err(FrameError::Network(0)),
        (Status::New, Some((&TCP, rest))) => Some((Network::Tcp, peer(rest)?)),
        (Status::New | Status::Keep, Some((&UDP, rest))) => Some((Network::Udp, peer(rest)?)),
        (Status::New, Some((other, _))) => return Err(FrameError::Network(*other)),
        _ => None,
    };
    let session = u16::from_be_bytes([id0, id1]);
    let head = Head { session, status, error: options & ERROR != 0, to };
    Ok(Parsed::Frame { head, payload, used })
}

fn peer(bytes: &[u8]) -> Result<Target, FrameError> {
    match address::parse(bytes) {
        Ok((peer, _)) => Ok(peer),
        // The head is whole: nothing more comes.
        Err(AddressError::Incomplete(_)) => Err(FrameError::Length(bytes.len())),
        Err(error) => Err(error.into()),
    }
}

/// Appends a frame. `payload` has at most 65,535 bytes; more are cut off.
pub fn emit(head: &Head, payload: Option<&[u8]>, out: &mut Vec<u8>) {
    let peer = head.to.as_ref().map_or(0, |(_, peer)| 1 + address::len(peer));
    out.extend(((4 + peer) as u16).to_be_bytes());
    out.extend(head.session.to_be_bytes());
    out.push(head.status as u8);
    let data = if payload.is_some() { DATA } else { 0 };
    out.push(data | if head.error { ERROR } else { 0 });
    if let Some((network, peer)) = &head.to {
        out.push(match network {
            Network::Tcp => TCP,
            Network::Udp => UDP,
        });
        address::emit(peer, out);
    }
    if let Some(payload) = payload {
        let payload = &payload[..payload.len().min(usize::from(u16::MAX))];
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(parse(&[0, 3, 0, 0, 1, 0]), Err(FrameError::Length(3)));
        assert_eq!(parse(&[255, 3, 0, 0, 1, 0]), Err(FrameError::Length(65283)));
        assert_eq!(parse(&[0, 4, 0, 0, 5, 0]), Err(FrameError::Status(5)));
        assert_eq!(parse(&[0, 4, 0, 0, 1, 0]), Err(FrameError::Network(0)));
        assert_eq!(parse(&[0, 5, 0, 0, 1, 0, 3]), Err(FrameError::Network(3)));
        assert_eq!(parse(&[0, 6, 0, 0, 1, 0, 1, 0]), Err(FrameError::Length(1)));
        let bad_type = [0, 8, 0, 0, 1, 0, 2, 0, 80, 9];
        assert_eq!(parse(&bad_type), Err(FrameError::Address(AddressError::Type(9))));
    }

    #[test]
    fn what_follows_the_peer_is_passed_over() {
        // A new session of Xray with the identity of its association.
        let frame =
            [0, 20, 0, 7, 1, 1, 2, 0, 53, 1, 192, 0, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, b'x'];
        let to = Some((Network::Udp, Target::new("192.0.2.1", 53)));
        let head = Head { session: 7, status: Status::New, error: false, to };
        assert_eq!(parse(&frame), Ok(Parsed::Frame { head, payload: Some(24..25), used: 25 }));
    }

    fn heads() -> impl Strategy<Value = Head> {
        let status = prop_oneof![
            Just(Status::New),
            Just(Status::Keep),
            Just(Status::End),
            Just(Status::KeepAlive)
        ];
        (any::<u16>(), status, any::<bool>(), any::<bool>(), any::<std::net::SocketAddr>())
            .prop_map(|(session, status, error, udp, peer)| {
                let to = match (status, udp) {
                    (Status::New, false) => Some((Network::Tcp, peer.into())),
                    (Status::New | Status::Keep, true) => Some((Network::Udp, peer.into())),
                    _ => None,
                };
                Head { session, status, error, to }
            })
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(expected in heads(), data: Option<Vec<u8>>, tail: Vec<u8>) {
            let mut bytes = Vec::new();
            emit(&expected, data.as_deref(), &mut bytes);
            let end = bytes.len();
            for cut in 0..end {
                prop_assert!(matches!(parse(&bytes[..cut]), Ok(Parsed::Need(n)) if n > cut && n <= end));
            }
            bytes.extend(tail);
            let Ok(Parsed::Frame { head, payload, used }) = parse(&bytes) else { panic!("no frame") };
            prop_assert_eq!((head, used), (expected, end));
            prop_assert_eq!(payload.map(|at| &bytes[at]), data.as_deref());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
