//! UDP over TCP, versions 1 and 2, of the reference (sing, common/uot): datagrams in a stream to a destination that exists for
//! nothing else. Version 1 has an address in each datagram; version 2 begins with a request, which may name the one peer.
//!
//! Streams of sing-mux carry datagrams the same way, with other numbers for the types of addresses.

pub mod wire;

use std::{io, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, DialError,
    addr::{Host, Target},
    component::{Dial, Outbound},
    flow::{BoxPacketIo, BoxStream},
    session::Network,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{
    address::{self, AddressError},
    framed::Framed,
};
use wire::{Datagrams, Request};

/// Which form datagrams have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// An address in each datagram.
    V1,
    /// A request first.
    V2,
}

impl Version {
    /// The version of that number; 0 stands for the newest.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            0 | 2 => Some(Self::V2),
            _ => None,
        }
    }

    /// The version that a destination stands for, if it is one of these.
    #[must_use]
    pub fn of(target: &Target) -> Option<Self> {
        let Host::Name(name) = &target.host else { return None };
        [Self::V1, Self::V2].into_iter().find(|version| *version.name() == **name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "sp.udp-over-tcp.arpa",
            Self::V2 => "sp.v2.udp-over-tcp.arpa",
        }
    }
}

/// The server's end of a stream: the first destination, and its datagrams.
///
/// # Errors
/// The stream ends within the request, or there is none.
pub async fn accept(version: Version, mut stream: BoxStream) -> io::Result<(Target, BoxPacketIo)> {
    if version == Version::V1 {
        let packets = Framed::boxed(stream, Datagrams::addressed(address::UOT), &[]);
        return Ok((Target::unspecified(), packets));
    }
    let request = read_request(&mut stream).await?;
    let peer = request.connect.then(|| request.target.clone());
    let packets = Framed::boxed(stream, Datagrams { families: address::UOT, peer }, &[]);
    Ok((request.target, packets))
}

/// Reads a request and not a byte more.
async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Request> {
    let mut bytes = Vec::new();
    loop {
        match Request::parse(&bytes) {
            Ok((request, _)) => return Ok(request),
            Err(AddressError::Incomplete(len)) => {
                let have = bytes.len();
                bytes.resize(len, 0);
                from.read_exact(&mut bytes[have..]).await?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// An outbound whose datagrams go through streams of another one.
pub struct OverTcp {
    inner: Arc<dyn Outbound>,
    version: Version,
    /// Where the streams go.
    target: Target,
}

impl OverTcp {
    /// Datagrams through streams of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Outbound>, version: Version) -> Self {
        Self { inner, version, target: Target { host: Host::Name(version.name().into()), port: 0 } }
    }
}

impl Outbound for OverTcp {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        self.inner.connect(dial)
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let stream = self.inner.connect(dial.to(&self.target)).await?;
            let connect = dial.session.is_some_and(|session| session.udp.connect);
            let mut begin = Vec::new();
            let mut peer = None;
            if self.version == Version::V2 {
                Request { connect, target: dial.target.clone() }.emit(&mut begin);
                peer = connect.then(|| dial.target.clone());
            }
            Ok(Framed::boxed(stream, Datagrams { families: address::UOT, peer }, &begin))
        })
    }

    fn supports(&self, network: Network) -> bool {
        self.inner.supports(network)
    }
}
