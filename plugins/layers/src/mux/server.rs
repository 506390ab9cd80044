//! The server: takes a session apart.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crosspoint_kernel::{
    BuildError,
    addr::{Host, Target},
    flow::{BoxStream, Flow},
    serve::{HANDSHAKE_TIMEOUT, handshake},
};
use crosspoint_schema::options::MultiplexInOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    brutal::{self, Brutal},
    carrier::Carrier,
    driver,
    frame::Dialect,
    h2,
    session::Session,
    talk::ServerStream,
    wire::{self, BrutalResponse, Carries, HeadError, Protocol, Request, StreamRequest},
};
use crate::{
    address,
    branches::Branches,
    framed::Framed,
    uot::{self, wire::Datagrams},
};

/// What an inbound does with sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Sessions without padding are refused.
    padding: bool,
    brutal: Option<Brutal>,
    /// Streams may carry UDP over TCP.
    pub(crate) udp_over_tcp: bool,
}

impl Settings {
    /// Reads the options.
    ///
    /// # Errors
    /// They are wrong.
    pub(crate) fn new(
        options: &MultiplexInOptions,
        udp_over_tcp: bool,
    ) -> Result<Self, BuildError> {
        let brutal = Brutal::new(options.brutal.as_ref())?;
        Ok(Self { padding: options.padding, brutal, udp_over_tcp })
    }
}

/// Reads one of sing-mux's messages and not a byte more. `len` is what it has beyond its own bytes.
async fn read<T>(
    from: &mut (impl AsyncRead + Unpin),
    parse: impl Fn(&[u8]) -> Result<(T, usize), HeadError>,
) -> io::Result<T> {
    let mut bytes = Vec::new();
    loop {
        let len = match parse(&bytes) {
            Ok((message, len)) if len <= bytes.len() => return Ok(message),
            // Padding.
            Ok((_, len)) | Err(HeadError::Incomplete(len)) => len,
            Err(error) => return Err(io::Error::other(error)),
        };
        let have = bytes.len();
        bytes.resize(len, 0);
        from.read_exact(&mut bytes[have..]).await?;
    }
}

/// Runs a session to its end: each of its streams becomes a connection of `branches`. After `drain` it ends with its last
/// stream.
///
/// # Errors
/// The session failed, or its client is not welcome.
pub(crate) async fn serve(
    settings: Settings,
    mut stream: BoxStream,
    branches: Branches,
    drain: CancellationToken,
) -> io::Result<()> {
    let request = handshake(HANDSHAKE_TIMEOUT, read(&mut stream, Request::parse)).await?;
    if settings.padding && !request.padding {
        return Err(io::Error::other("non-padded connection rejected"));
    }
    let local = stream.local_addr();
    let socket = settings.brutal.and_then(|_| brutal::socket(&stream)).map(Arc::new);
    let carrier = Carrier::server(stream, request.padding);
    let accept = |stream: BoxStream| {
        let (branches, socket) = (branches.clone(), socket.clone());
        tokio::spawn(async move {
            let source = branches.source();
            if let Err(error) = branch(settings, stream, branches, socket).await {
                debug!("multiplex stream from {source}: {error}");
            }
        });
    };
    let dialect = match request.protocol {
        Protocol::H2 => return h2::serve(carrier, local, drain, accept).await,
        Protocol::Smux => Dialect::Smux,
        Protocol::Yamux => Dialect::Yamux,
    };
    let session = Session::new(dialect, false, local);
    let work = driver::run(session.clone(), carrier, |stream| accept(Box::new(stream)));
    tokio::pin!(work);
    tokio::select! {
        end = &mut work => end,
        () = drain.cancelled() => {
            session.send(|out| dialect.away(super::frame::AWAY_NORMAL, out));
            session.drain();
            work.await
        }
    }
}

/// Makes a connection of a stream.
async fn branch(
    settings: Settings,
    mut stream: BoxStream,
    branches: Branches,
    socket: Option<Arc<OwnedFd>>,
) -> io::Result<()> {
    let begun = async {
        let StreamRequest { carries, target } = read(&mut stream, StreamRequest::parse).await?;
        let stream = Box::new(ServerStream::new(stream));
        let peer = match carries {
            Carries::Stream if is_brutal(&target) => {
                agree(settings.brutal, stream, socket.as_deref()).await?;
                return Ok(None);
            }
            Carries::Stream => match uot::Version::of(&target).filter(|_| settings.udp_over_tcp) {
                Some(version) => {
                    let (target, packets) = uot::accept(version, stream).await?;
                    return Ok(Some((target, Flow::Packet(packets))));
                }
                None => return Ok(Some((target, Flow::Stream(stream)))),
            },
            Carries::Datagrams => Some(target.clone()),
            Carries::Addressed => None,
        };
        let packets = Framed::boxed(stream, Datagrams { families: address::SOCKS, peer }, &[]);
        Ok::<_, io::Error>(Some((target, Flow::Packet(packets))))
    };
    if let Some((target, flow)) = handshake(HANDSHAKE_TIMEOUT, begun).await? {
        branches.conn(target, flow).await;
    }
    Ok(())
}

fn is_brutal(target: &Target) -> bool {
    matches!(&target.host, Host::Name(name) if **name == *wire::BRUTAL)
}

/// Answers a client that tells how fast it may be sent to.
async fn agree(
    ours: Option<Brutal>,
    mut stream: Box<ServerStream>,
    socket: Option<&OwnedFd>,
) -> io::Result<()> {
    let theirs = stream.read_u64().await?;
    let answer: BrutalResponse = match ours {
        None => Err("brutal is not enabled by the server".to_owned()),
        Some(ours) => match brutal::enable(socket, ours.send.min(theirs)) {
            Ok(()) => Ok(ours.receive),
            Err(error) => Err(format!("enable TCP Brutal: {error}")),
        },
    };
    let mut bytes = Vec::new();
    wire::emit_brutal(&answer, &mut bytes);
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}
