//! Sessions over HTTP/2: every stream is a `CONNECT` request (sing-mux, h2mux.go). Frames and windows are the `h2` crate's.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use crosspoint_kernel::flow::{BoxStream, Stream};
use h2::{
    PingPong, Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
    server,
};
use http::{Method, Request, Response, Version};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::carrier::Carrier;

/// Bytes that a stream may be sent before somebody has read some, and the same for all streams of a session together: one
/// that nobody reads does not stop the others.
const STREAM: u32 = 1 << 20;
const SESSION: u32 = 16 << 20;

/// Longest payload of a frame in bytes, as in the reference.
const FRAME: u32 = 32 * 1024;

/// Bytes of a stream that wait to be sent until its writer has to wait.
const SEND: usize = 64 * 1024;

/// Most streams of a client at a time, as in the reference (Go's default).
const STREAMS: u32 = 250;

/// Signs of life of the client, and how long one may take (sing-mux, h2mux.go; Go's default).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(15);

/// A server looks this often whether its session has streams; after three times without any it ends, as in the reference
/// after 30 seconds.
const LOOK: Duration = Duration::from_secs(10);
const LOOKS: u32 = 3;

fn failed(error: h2::Error) -> io::Error {
    let kind = match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => {
            io::ErrorKind::ConnectionReset
        }
        _ => io::ErrorKind::Other,
    };
    match error.into_io() {
        Some(error) => error,
        None => io::Error::new(kind, "multiplex stream reset"),
    }
}

/// A session at its client.
pub(super) struct H2Client {
    /// `None` when no more streams are to be opened: the connection ends by itself after the last one.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    live: Arc<AtomicUsize>,
    closed: AtomicBool,
    local: Option<SocketAddr>,
}

/// Counts a stream as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream that is about to be opened.
pub(super) struct Opening {
    requests: SendRequest<Bytes>,
    counted: Counted,
    local: Option<SocketAddr>,
}

impl H2Client {
    /// A session, and its work.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn start(
        carrier: Carrier,
        local: Option<SocketAddr>,
    ) -> io::Result<(Arc<Self>, impl Future<Output = io::Result<()>> + Send + use<>)> {
        let mut builder = client::Builder::new();
        builder
            .initial_window_size(STREAM)
            .initial_connection_window_size(SESSION)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND)
            .enable_push(false);
        let (requests, mut connection) =
            builder.handshake::<_, Bytes>(carrier).await.map_err(failed)?;
        let pings = connection.ping_pong();
        let client = Arc::new(Self {
            requests: Mutex::new(Some(requests)),
            live: Arc::default(),
            closed: AtomicBool::new(false),
            local,
        });
        let shared = client.clone();
        let work = async move {
            let result = tokio::select! {
                result = connection => result.map_err(failed),
                () = keep_alive(pings) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "keepalive timeout"))
                }
            };
            shared.closed.store(true, Ordering::Release);
            *shared.requests.lock() = None;
            result
        };
        Ok((client, work))
    }

    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn takes_more(&self) -> bool {
        let most = self.requests.lock().as_ref().map(SendRequest::current_max_send_streams);
        !self.is_closed() && most.is_some_and(|most| self.live() < most)
    }

    /// Opens no more streams.
    pub(super) fn drain(&self) {
        *self.requests.lock() = None;
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// The session opens no more.
    pub(super) fn open(&self) -> io::Result<Opening> {
        let requests = self.requests.lock().clone();
        let requests = requests.ok_or_else(|| {
            io::Error::new(io::ErrorKind::ConnectionAborted, "multiplex session ended")
        })?;
        Ok(Opening { requests, counted: Counted::new(&self.live), local: self.local })
    }
}

impl Opening {
    /// Opens the stream; the answer to the request comes with the first bytes.
    ///
    /// # Errors
    /// The session has ended.
    pub(super) async fn open(self) -> io::Result<BoxStream> {
        let mut requests = self.requests.ready().await.map_err(failed)?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("localhost")
            .version(Version::HTTP_2)
            .body(())
            .map_err(io::Error::other)?;
        let (response, send) = requests.send_request(request, false).map_err(failed)?;
        Ok(Box::new(H2Stream {
            send,
            received: Received::Answer(response),
            rest: Bytes::new(),
            finished: false,
            local: self.local,
            _counted: self.counted,
        }))
    }
}

/// Ends when the other side does not answer any more.
async fn keep_alive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(KEEP_ALIVE).await;
        match timeout(ANSWER, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, and says so itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Runs a session at its server to its end. `accept` takes its streams.
///
/// # Errors
/// The connection failed, or the client broke the protocol.
pub(super) async fn serve(
    carrier: Carrier,
    local: Option<SocketAddr>,
    drain: CancellationToken,
    mut accept: impl FnMut(BoxStream),
) -> io::Result<()> {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM)
        .initial_connection_window_size(SESSION)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(SEND);
    let handshake = builder.handshake::<_, Bytes>(carrier);
    let limit = crosspoint_kernel::serve::HANDSHAKE_TIMEOUT;
    let mut connection =
        crosspoint_kernel::serve::handshake(limit, async { handshake.await.map_err(failed) })
            .await?;
    let live = Arc::<AtomicUsize>::default();
    let (mut quiet, mut ending) = (0, false);
    let mut look = interval(LOOK);
    look.reset();
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            _ = look.tick(), if !ending => {
                quiet = if live.load(Ordering::Acquire) == 0 { quiet + 1 } else { 0 };
                if quiet >= LOOKS {
                    ending = true;
                    connection.graceful_shutdown();
                }
                continue;
            }
            () = drain.cancelled(), if !ending => {
                ending = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(next) = next else { return Ok(()) };
        let (request, mut respond) = next.map_err(failed)?;
        quiet = 0;
        // At once: clients give up when they hear nothing for five seconds.
        let Ok(send) = respond.send_response(Response::new(()), false) else { continue };
        accept(Box::new(H2Stream {
            send,
            received: Received::Body(request.into_body()),
            rest: Bytes::new(),
            finished: false,
            local,
            _counted: Counted::new(&live),
        }));
    }
}

/// What is received.
enum Received {
    /// The other side has not answered yet.
    Answer(ResponseFuture),
    Body(RecvStream),
    Ended,
}

/// A stream of a session.
struct H2Stream {
    send: SendStream<Bytes>,
    received: Received,
    /// Of a frame that was not read to its end.
    rest: Bytes,
    finished: bool,
    local: Option<SocketAddr>,
    _counted: Counted,
}

impl H2Stream {
    /// Waits for the next bytes; `false` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.received {
                Received::Answer(answer) => {
                    let response = ready!(Pin::new(answer).poll(cx)).map_err(failed)?;
                    if response.status() != http::StatusCode::OK {
                        let text = format!("unexpected status: {}", response.status());
                        return Poll::Ready(Err(io::Error::other(text)));
                    }
                    self.received = Received::Body(response.into_body());
                }
                Received::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => {
                        self.rest = data;
                        return Poll::Ready(Ok(true));
                    }
                    // A Go server ends a stream whose other direction is open like this.
                    Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                        self.received = Received::Ended;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                    None => self.received = Received::Ended,
                },
                Received::Ended => return Poll::Ready(Ok(false)),
            }
        }
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() && !ready!(this.poll_next(cx))? {
            return Poll::Ready(Ok(()));
        }
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..n]);
        this.rest.advance(n);
        if this.rest.is_empty() {
            // Lets go of the buffer that it was received in.
            this.rest = Bytes::new();
        }
        if let Received::Body(body) = &mut this.received {
            // Fails only when more is given back than was received.
            let _ = body.flow_control().release_capacity(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(data.len().min(SEND));
        let mut room = this.send.capacity();
        while room == 0 {
            room = match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = data.len().min(room);
        this.send.send_data(Bytes::copy_from_slice(&data[..n]), false).map_err(failed)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the session sends what there is without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.finished, true) {
            // Fails when the stream was reset: there is nobody to tell then.
            let _ = this.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for H2Stream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }
}
