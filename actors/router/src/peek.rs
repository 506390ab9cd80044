//! Runs sniffers on a flow, and gives back what was read.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use crosspoint_kernel::{
    addr::{Host, Target},
    error::DialError,
    flow::{Batch, BoxPacketIo, BoxStream, Flow, PacketIo, Prefixed, PrefixedPackets, Stream},
    relay::{give_batch, take_batch},
    session::Session,
    snapshot::RouteError,
};
use crosspoint_rules::is_domain_name;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use crate::sniff::{
    self, DEFAULT_TIMEOUT, History, Outcome, PacketSniffer, Sniffed, Sniffer, server_speaks_first,
};

/// Compatibility switch: a DNS message that is no query ends the sniffing of datagrams, as in the
/// reference, which therefore takes many NTP and DTLS packets for nothing.
pub const DNS_ENDS_SNIFFING: &str = "dns-ends-sniffing";

/// Bytes of a stream that are read ahead at most, as in the reference.
const MAX_BYTES: usize = 65_535;
/// First buffer; a ClientHello with post-quantum keys fits.
const CHUNK: usize = 4096;
/// Datagrams that are held back at most.
const MAX_PACKETS: usize = 64;

/// One `sniff`: by a rule, or by the old fields of an inbound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sniff<'a> {
    /// Empty: all that fit the flow.
    pub(crate) sniffers: &'a [Sniffer],
    /// How long to wait for the client.
    pub(crate) timeout: Option<Duration>,
    /// Dial the sniffed domain instead.
    pub(crate) override_destination: bool,
}

/// What was read ahead of one flow, and what sniffers said about it.
#[derive(Default)]
pub(crate) struct Peek {
    bytes: BytesMut,
    packets: Vec<(Bytes, Target)>,
    history: History,
    /// The compatibility switch [`DNS_ENDS_SNIFFING`].
    dns_ends_sniffing: bool,
}

impl Peek {
    /// Nothing read yet.
    pub(crate) fn new(dns_ends_sniffing: bool) -> Self {
        Self { dns_ends_sniffing, ..Self::default() }
    }

    /// Sniffs, unless there is a reason not to.
    ///
    /// # Errors
    /// When a datagram association breaks. A stream that breaks is found out by the relay.
    pub(crate) async fn sniff(
        &mut self,
        what: Sniff<'_>,
        session: &mut Session,
        flow: &mut Flow,
    ) -> Result<(), RouteError> {
        if server_speaks_first(session.target.port) {
            debug!(conn = session.id, "sniff skipped due to port considered as server-first");
            return Ok(());
        }
        if session.protocol.is_some() {
            debug!(conn = session.id, "duplicate sniff skipped");
            return Ok(());
        }
        let allowed = match flow {
            Flow::Stream(_) => self.history.allows_stream(what.sniffers),
            Flow::Packet(_) => self.history.allows_packets(what.sniffers),
        };
        if !allowed {
            return Ok(());
        }
        let wait = what.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let outcome = match flow {
            Flow::Stream(stream) => Some(self.stream(what.sniffers, stream, wait).await),
            Flow::Packet(packets) => self
                .packets(what.sniffers, packets, wait)
                .await
                .map_err(|error| RouteError(format!("sniff packets: {error}")))?,
        };
        if let Some(outcome) = outcome {
            self.history.record(what.sniffers, &outcome);
            if let Outcome::Match(sniffed) = outcome {
                apply(sniffed, what.override_destination, session);
            }
        }
        Ok(())
    }

    /// Reads until the sniffers have decided, the client has ended, or time is up.
    async fn stream(
        &mut self,
        sniffers: &[Sniffer],
        stream: &mut BoxStream,
        wait: Duration,
    ) -> Outcome {
        let deadline = Instant::now() + wait;
        loop {
            if !self.bytes.is_empty() {
                match sniff::stream(sniffers, &self.bytes) {
                    Outcome::NeedMore if self.bytes.len() < MAX_BYTES => {}
                    Outcome::NeedMore => return Outcome::NoMatch,
                    decided => return decided,
                }
            }
            if self.bytes.capacity() == self.bytes.len() {
                self.bytes.reserve(self.bytes.len().max(CHUNK));
            }
            match timeout_at(deadline, stream.read_buf(&mut self.bytes)).await {
                Ok(Ok(1..)) => {}
                // A client that says nothing is not asked again with the same sniffers.
                _ if self.bytes.is_empty() => return Outcome::NoMatch,
                _ => return Outcome::NeedMore,
            }
        }
    }

    /// Receives until the sniffers have decided or no datagram comes in time (`None`).
    async fn packets(
        &mut self,
        sniffers: &[Sniffer],
        io: &mut BoxPacketIo,
        wait: Duration,
    ) -> io::Result<Option<Outcome>> {
        let mut sniffer = PacketSniffer::new().dns_ends_sniffing(self.dns_ends_sniffing);
        let mut judged = 0;
        loop {
            while let Some((payload, _)) = self.packets.get(judged) {
                judged += 1;
                match sniffer.push(sniffers, payload) {
                    Outcome::NeedMore => {}
                    decided => return Ok(Some(decided)),
                }
            }
            if self.packets.len() >= MAX_PACKETS {
                return Ok(Some(Outcome::NoMatch));
            }
            match timeout(wait, poll_fn(|cx| poll_take(io, cx, &mut self.packets))).await {
                Ok(received) => received?,
                Err(_) => return Ok(sniffer.partial().map(Outcome::Match)),
            }
        }
    }

    /// Puts what was read back in front of the flow.
    pub(crate) fn give_back(self, flow: &mut Flow) {
        match flow {
            Flow::Stream(stream) if !self.bytes.is_empty() => {
                let inner = std::mem::replace(stream, Box::new(Gone));
                *stream = Box::new(Prefixed::new(self.bytes.freeze(), inner));
            }
            Flow::Packet(packets) if !self.packets.is_empty() => {
                let inner = std::mem::replace(packets, Box::new(Gone));
                *packets = Box::new(PrefixedPackets::new(self.packets, inner));
            }
            _ => {}
        }
    }
}

/// Receives datagrams into `out`. The batch goes back to its pool before the task sleeps.
fn poll_take(
    io: &mut BoxPacketIo,
    cx: &mut Context<'_>,
    out: &mut Vec<(Bytes, Target)>,
) -> Poll<io::Result<()>> {
    let mut batch = take_batch();
    let result = io.poll_recv(cx, &mut batch);
    out.extend(
        (0..batch.len())
            .map(|index| (Bytes::copy_from_slice(batch.payload(index)), batch.peer(index).clone())),
    );
    give_batch(batch);
    result.map_ok(drop)
}

fn apply(sniffed: Sniffed, override_destination: bool, session: &mut Session) {
    let Sniffed { protocol, domain, client } = sniffed;
    debug!(conn = session.id, ?domain, ?client, "sniffed protocol: {protocol}");
    session.protocol = Some(protocol);
    if domain.is_some() {
        session.domain = domain;
    }
    if client.is_some() {
        session.client = client;
    }
    if override_destination
        && let Some(domain) = session.domain.as_deref().filter(|domain| is_domain_name(domain))
    {
        session.target.host = Host::Name(domain.into());
    }
}

/// Stands in for a flow while it is wrapped; nobody uses it.
pub(crate) struct Gone;

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Gone {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        gone()
    }
}

impl AsyncWrite for Gone {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        gone()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        gone()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        gone()
    }
}

impl Stream for Gone {
    fn poll_answer(
        &mut self,
        _: &mut Context<'_>,
        _: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        gone()
    }
}

impl PacketIo for Gone {
    fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut Batch) -> Poll<io::Result<usize>> {
        gone()
    }

    fn poll_send(&mut self, _: &mut Context<'_>, _: &mut Batch) -> Poll<io::Result<()>> {
        gone()
    }
}
