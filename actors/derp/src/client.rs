//! A client of a DERP server: what a node is, and each server towards the others of its region.

use std::{
    fmt,
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::flow::BoxStream;
use crosspoint_layers::{input::Input, transport::head::parse};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::{
    frame::{FrameError, FromClient, FromServer, MAX_PACKET, Step},
    handshake::{self, Greeted, HandshakeError},
    info::{ClientInfo, ServerInfo},
    key::{Key, PrivateKey},
    mailbox::{Limit, Mailbox},
    pump::{Alarm, Pump, TURN, earliest},
};

/// How long nothing may come from a server: two of its keep-alives.
pub const SILENCE: Duration = Duration::from_secs(120);

/// How long a server may take no byte.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest head of a server's answer to the upgrade.
const MAX_ANSWER: usize = 16 << 10;

/// Why a connection to a server has ended, or there is none.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server broke the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The server refuses the upgrade, with that status.
    #[error("the server answers {0} to the upgrade")]
    Refused(u16),
    /// The server has said nothing for [`SILENCE`], or taken nothing.
    #[error("the server is silent")]
    Silent,
    /// The server is done with us.
    #[error("closed by the server")]
    Closed,
}

/// The request that a connection begins with. `fast` asks for no answer: DERP begins behind the request; for servers
/// whose key is known.
#[must_use]
pub fn upgrade_request(host: impl fmt::Display, fast: bool) -> Vec<u8> {
    let fast = if fast { "Derp-Fast-Start: 1\r\n" } else { "" };
    format!(
        "GET /derp HTTP/1.1\r\nHost: {host}\r\nUser-Agent: crosspoint\r\nConnection: Upgrade\r\n\
         Upgrade: DERP\r\n{fast}\r\n"
    )
    .into_bytes()
}

/// Asks for the upgrade and reads the answer; what comes behind it stays in `input`.
///
/// # Errors
/// The stream failed, or the server refuses.
pub async fn upgrade(
    stream: &mut BoxStream,
    input: &mut Input,
    host: impl fmt::Display,
) -> Result<(), ClientError> {
    stream.write_all(&upgrade_request(host, false)).await?;
    stream.flush().await?;
    let mut searched = 0;
    loop {
        let held = input.bytes();
        if let Some(end) = parse::end(held, searched) {
            let head = parse::Response::parse(held.get(..end).unwrap_or_default());
            let status = head.map_err(|error| io::Error::other(error.to_string()))?.status;
            input.consume(end);
            return if status == 101 { Ok(()) } else { Err(ClientError::Refused(status)) };
        }
        searched = held.len();
        if searched >= MAX_ANSWER {
            return Err(io::Error::other("the server's answer is too long").into());
        }
        if poll_fn(|cx| input.poll_receive(cx, stream, searched + 1)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// A connection to a server.
pub struct Client {
    pump: Pump,
    greeted: Greeted,
    /// Bytes in front that were handed out and are done with.
    used: usize,
    skip: usize,
    /// Bytes that were read since others had their turn.
    taken: usize,
    heard: Instant,
    alarm: Alarm,
}

impl Client {
    /// Does the handshake. `input` holds what came behind the upgrade; `known` is the server's key where it is known.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn new(
        mut stream: BoxStream,
        mut input: Input,
        own: &PrivateKey,
        info: &ClientInfo,
        known: Option<Key>,
    ) -> Result<Self, HandshakeError> {
        let greeted = handshake::connect(&mut stream, &mut input, own, info, known).await?;
        let now = Instant::now();
        Ok(Self {
            pump: Pump::new(stream, input, Arc::default(), PATIENCE),
            greeted,
            used: 0,
            skip: 0,
            taken: 0,
            heard: now,
            alarm: Alarm::new(now + SILENCE),
        })
    }

    /// The server's key.
    #[must_use]
    pub fn server(&self) -> Key {
        self.greeted.server
    }

    /// What the server says of itself in [`FromServer::Info`].
    ///
    /// # Errors
    /// It does not have the private key, or is not understood.
    pub fn info(&self, sealed: &[u8]) -> Result<ServerInfo, HandshakeError> {
        self.greeted.info(sealed)
    }

    /// What is to be sent. Anybody may send; bytes move while [`Self::next`] is waited for.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.pump.mailbox
    }

    /// Queues a frame in front of all packets.
    pub fn say(&self, frame: FromClient<'_>) {
        self.pump.mailbox.control(Limit::Complete, |out| frame.emit(out));
    }

    /// The next frame; pings are answered here. May be dropped while it waits.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&mut self) -> Result<FromServer<'_>, ClientError> {
        self.pump.input.consume(std::mem::take(&mut self.used));
        poll_fn(|cx| self.poll_frame(cx)).await?;
        match FromServer::next(self.pump.input.bytes())? {
            Step::Frame(frame, used) => {
                self.used = used;
                Ok(frame)
            }
            Step::Need(_) | Step::Skip(_) => Err(ClientError::Closed),
        }
    }

    /// Ready when a frame stands in front.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.pump.mailbox.register(cx);
        loop {
            if self.pump.mailbox.is_closed() {
                return Poll::Ready(Err(ClientError::Closed));
            }
            let now = Instant::now();
            if let Poll::Ready(error) = self.pump.poll_send(cx, now) {
                return Poll::Ready(Err(error.into()));
            }
            match self.poll_read(cx, now) {
                Poll::Ready(result) => return Poll::Ready(result),
                Poll::Pending if self.taken >= TURN => {
                    self.taken = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            let silent = self.heard + SILENCE;
            if now >= silent || self.pump.due.is_some_and(|due| now >= due) {
                return Poll::Ready(Err(ClientError::Silent));
            }
            let next = earliest([Some(silent), self.pump.due]).unwrap_or(silent);
            if self.alarm.poll(cx, next).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), ClientError>> {
        loop {
            if self.skip > 0 {
                let n = self.skip.min(self.pump.input.bytes().len());
                self.pump.input.consume(n);
                self.skip -= n;
            }
            let need = if self.skip > 0 {
                1
            } else {
                match FromServer::next(self.pump.input.bytes())? {
                    Step::Need(need) => need,
                    Step::Skip(len) => {
                        self.skip = len;
                        continue;
                    }
                    Step::Frame(FromServer::Ping(data), used) => {
                        let pong = FromClient::Pong(data);
                        self.pump.mailbox.control(Limit::Hints, |out| pong.emit(out));
                        self.pump.input.consume(used);
                        continue;
                    }
                    Step::Frame(..) => return Poll::Ready(Ok(())),
                }
            };
            if self.taken >= TURN {
                return Poll::Pending;
            }
            match self.pump.poll_receive(cx, need) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Closed)),
                Poll::Ready(Ok(n)) => {
                    self.taken += n;
                    self.heard = now;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    self.taken = 0;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Queues a packet for a node.
    ///
    /// # Errors
    /// It is longer than [`MAX_PACKET`].
    pub fn send(&self, to: &Key, packet: &[u8]) -> io::Result<()> {
        if packet.len() > MAX_PACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "packet too long for DERP"));
        }
        self.pump.mailbox.send(to, packet);
        Ok(())
    }
}
