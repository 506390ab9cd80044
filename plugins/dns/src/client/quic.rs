//! QUIC connections through whatever carries datagrams, a detour included.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crosspoint_kernel::{
    addr::Target,
    flow::{BoxPacketIo, MAX_DATAGRAM},
    relay::{give_batch, take_batch},
    resolve::{ExchangeError, Trail},
};
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, UdpPoller,
    VarInt,
    udp::{RecvMeta, Transmit},
};

use super::Secure;

/// Silence after which a connection is over.
const IDLE: Duration = Duration::from_secs(30);

/// Datagrams that wait to be sent.
const QUEUE: usize = 64;

/// Received datagrams that wait for the connection.
const INBOX: usize = 256;

/// Opens a connection.
///
/// # Errors
/// No way to the server, or no handshake with it.
pub(crate) async fn connect(
    secure: &Secure,
    trail: &Trail,
) -> Result<(Endpoint, Connection), ExchangeError> {
    let mut config = secure.client.quic(trail).await?;
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(VarInt::from_u32(IDLE.as_millis() as u32).into()))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(8));
    config.transport_config(Arc::new(transport));
    let io = secure.route.associate(trail).await?;
    let target = secure.route.target().clone();
    // A server behind a detour may have no address that is known here: to QUIC it has one that is nobody's.
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), target.port.max(1));
    let addr = target.socket_addr().unwrap_or(nobody);
    let socket = Arc::new(Socket::new(io, target, addr));
    let runtime = Arc::new(TokioRuntime);
    let failed = |error: &dyn fmt::Display| {
        ExchangeError::failed(format_args!("quic {}: {error}", secure.route.target()))
    };
    let endpoint = Endpoint::new_with_abstract_socket(
        EndpointConfig::default(),
        None,
        socket.clone(),
        runtime,
    )
    .map_err(|error| failed(&error))?;
    let connecting = endpoint
        .connect_with(config, addr, &secure.client.server_name())
        .map_err(|error| failed(&error))?;
    match connecting.await {
        Ok(connection) => Ok((endpoint, connection)),
        // What the socket says tells more than what QUIC makes of it.
        Err(error) => Err(match socket.state.lock().error.take() {
            Some(why) => failed(&why),
            None => failed(&error),
        }),
    }
}

/// A datagram association as a socket of quinn's.
struct Socket {
    state: Mutex<State>,
    target: Target,
    /// Where the server seems to be.
    addr: SocketAddr,
}

struct State {
    io: BoxPacketIo,
    out: VecDeque<Vec<u8>>,
    inbox: VecDeque<Vec<u8>>,
    /// The task that receives; it sends as well.
    driver: Option<Waker>,
    /// Tasks that wait for room in `out`.
    blocked: Vec<Waker>,
    error: Option<io::Error>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Socket {
    fn new(io: BoxPacketIo, target: Target, addr: SocketAddr) -> Self {
        let state = State {
            io,
            out: VecDeque::new(),
            inbox: VecDeque::new(),
            driver: None,
            blocked: Vec::new(),
            error: None,
        };
        Self { state: Mutex::new(state), target, addr }
    }
}

impl State {
    fn flush(&mut self, cx: &mut Context<'_>, target: &Target) -> io::Result<()> {
        while !self.out.is_empty() {
            let mut batch = take_batch();
            while let Some(datagram) = self.out.front()
                && batch.push(datagram, target.clone())
            {
                self.out.pop_front();
            }
            let result = self.io.poll_send(cx, &mut batch);
            // What the association does not take now is lost, as on a full socket: QUIC sends it again.
            give_batch(batch);
            match result {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
        }
        self.blocked.drain(..).for_each(Waker::wake);
        Ok(())
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.inbox.len() < INBOX {
            let mut batch = take_batch();
            let result = self.io.poll_recv(cx, &mut batch);
            self.inbox.extend((0..batch.len()).map(|index| batch.payload(index).to_vec()));
            give_batch(batch);
            match result {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            };
        }
        Ok(())
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.out.len() >= QUEUE {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if transmit.contents.len() <= MAX_DATAGRAM {
            let size = transmit.segment_size.unwrap_or(usize::MAX).max(1);
            state.out.extend(transmit.contents.chunks(size).map(<[u8]>::to_vec));
        }
        if let Some(driver) = state.driver.take() {
            driver.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        let moved = state.flush(cx, &self.target).and_then(|()| state.fill(cx));
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(datagram) = state.inbox.pop_front() else { break };
            let length = datagram.len().min(buf.len());
            buf[..length].copy_from_slice(&datagram[..length]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (self.addr, length, length);
            taken += 1;
        }
        match moved {
            _ if taken > 0 => Poll::Ready(Ok(taken)),
            Ok(()) => Poll::Pending,
            Err(error) => {
                state.error = Some(io::Error::new(error.kind(), error.to_string()));
                Poll::Ready(Err(error))
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let any = match self.addr {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Ok(SocketAddr::new(any, 0))
    }
}

struct Poller(Arc<Socket>);

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock();
        if state.out.len() < QUEUE {
            return Poll::Ready(Ok(()));
        }
        state.blocked.push(cx.waker().clone());
        Poll::Pending
    }
}
