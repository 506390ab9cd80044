//! The server: requests of one connection become streams.

use std::{
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use crosspoint_kernel::{
    BoxFuture,
    flow::BoxStream,
    serve::{HANDSHAKE_TIMEOUT, handshake},
};
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, error};

use super::{
    FRAME, HEADERS, REMEMBERED, REMEMBERED_STREAMS, SEND_BUFFER, broken,
    shared::{Seat, Shared},
    stream::H2Stream,
};
use crate::transport::{
    AdmitError, Arrived, Guests,
    head::{self, uri::Path},
    http::service::{Asked, Refusal, Service, Welcome},
};

/// Most bytes of one stream that arrived and were not read.
const STREAM_WINDOW: u32 = 2 << 20;

/// The same of a connection whose client has shown nothing yet, as in the reference.
const FIRST_WINDOW: u32 = 1 << 20;

/// The same after the protocols of its streams have read [`TRUSTED`] bytes.
const CONNECTION_WINDOW: u32 = 32 << 20;

/// See [`CONNECTION_WINDOW`].
const TRUSTED: u64 = 256 << 10;

/// Streams that a client opens and resets at once, before we have seen the first of them (CVE-2023-44487).
const RAPID_RESETS: usize = 64;

/// Mistakes of a client in all the time of a connection, mostly frames for streams that have long ended.
const MISTAKES: usize = 8192;

/// How long a connection may take to its first request, if the user set no limit for unused ones.
const FIRST_REQUEST: Duration = Duration::from_secs(60);

/// How long requests are still taken after we have announced the end, for those that were sent before it was known.
const GRACE: Duration = Duration::from_secs(2);

/// How long the client may take to close a connection whose end we have announced.
const LINGER: Duration = Duration::from_secs(5);

/// Gives every request of a connection to `guests`. Returns when the connection has ended. When the inbound is cancelled, no
/// more requests are taken, and the connection ends with the last one.
///
/// # Errors
/// The client does not speak HTTP/2, or breaks its rules.
pub(in crate::transport) async fn serve(
    stream: BoxStream,
    alpn: Option<Box<[u8]>>,
    service: &dyn Service,
    guests: &Guests,
) -> Result<(), AdmitError> {
    let local = stream.local_addr();
    let begun = async {
        let begun = builder(service).handshake(stream).await;
        begun.map_err(|error| AdmitError::Io(broken(&error)))
    };
    let connection = handshake(HANDSHAKE_TIMEOUT, begun).await?;
    let mut driver = Driver {
        connection,
        shared: Shared::new(local),
        trusted: false,
        admitting: None,
        idle: service.idle(),
        timer: Box::pin(sleep(service.idle().unwrap_or(FIRST_REQUEST))),
        timing: true,
        seen: false,
        ending: None,
    };
    let mut complained = false;
    let mut closing = Box::pin(guests.closing());
    loop {
        let event = poll_fn(|cx| {
            if driver.ending.is_none() && closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Closing);
            }
            driver.poll(cx)
        });
        match event.await {
            Event::Request(request, mut respond) => {
                if driver.is_late() {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                match accept(request, respond, service, &driver.shared, guests.peer()) {
                    Ok(Some((stream, source))) => {
                        let alpn = alpn.clone();
                        let arrived = Arrived { stream: Box::new(stream), alpn, source };
                        driver.admitting = Some(Box::pin(guests.take(arrived)));
                    }
                    Ok(None) => {}
                    // Once for each connection, so that nobody can fill our log with one.
                    Err(why) if !complained => {
                        complained = true;
                        error!("process connection from {}: {why}", guests.peer());
                    }
                    Err(why) => debug!("process connection from {}: {why}", guests.peer()),
                }
            }
            Event::Full => driver.connection.abrupt_shutdown(Reason::REFUSED_STREAM),
            Event::Closing => driver.end(),
            Event::Late if driver.ending.is_some() => return Ok(()),
            Event::Late => driver.end(),
            // A client that leaves when it is told of the end need not read the rest of it.
            Event::Over(_) if driver.ending.is_some() => return Ok(()),
            Event::Over(result) => {
                return result.map_err(|error| AdmitError::Io(broken(&error)));
            }
        }
    }
}

fn accept(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: &dyn Service,
    shared: &Arc<Shared>,
    peer: SocketAddr,
) -> Result<Option<(H2Stream, Option<SocketAddr>)>, String> {
    let (parts, body) = request.into_parts();
    let field = |name| parts.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let verdict = match Path::parse(parts.uri.path()) {
        Ok(path) => service.judge(&Asked {
            method: parts.method.as_str(),
            host: match parts.uri.authority() {
                Some(authority) => authority.as_str().as_bytes(),
                None => field(header::HOST.as_str()),
            },
            path: path.plain(),
            content_type: field(header::CONTENT_TYPE.as_str()),
            source: None,
        }),
        Err(_) => {
            let path = parts.uri.path().as_bytes();
            Err(Refusal::new(StatusCode::BAD_REQUEST, "path", path))
        }
    };
    match verdict {
        Ok(Welcome { headers, wire }) => {
            let mut response = Response::new(());
            *response.headers_mut() = headers;
            response.headers_mut().insert(header::DATE, date());
            if body.is_end_stream() {
                // No protocol can follow. The reference's handler finds that out and returns.
                let none = HeaderValue::from_static("0");
                response.headers_mut().insert(header::CONTENT_LENGTH, none);
                let _ = respond.send_response(response, true);
                return Err("request without a body".to_owned());
            }
            // Fails if the client has reset the stream already.
            let Ok(send) = respond.send_response(response, false) else { return Ok(None) };
            let stream = H2Stream::server(send, body, wire, Seat::new(shared));
            Ok(Some((stream, head::forwarded(field("x-forwarded-for"), peer))))
        }
        Err(Refusal { status, why }) => {
            let mut response = Response::new(());
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            response.headers_mut().insert(header::DATE, date());
            let _ = respond.send_response(response, true);
            Err(why)
        }
    }
}

/// Now, as in heads.
fn date() -> HeaderValue {
    HeaderValue::try_from(head::date()).unwrap_or(HeaderValue::from_static(""))
}

#[expect(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum Event {
    /// A request has come.
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// The daemon takes no more connections.
    Full,
    /// The inbound is cancelled.
    Closing,
    /// The connection was without requests for as long as it may be.
    Late,
    /// The connection has ended.
    Over(Result<(), h2::Error>),
}

/// A connection with what its task must not forget.
struct Driver<'a> {
    connection: Connection<BoxStream, Bytes>,
    shared: Arc<Shared>,
    /// The large window was opened.
    trusted: bool,
    /// A stream that waits for a place; meanwhile no other is accepted.
    admitting: Option<BoxFuture<'a, bool>>,
    idle: Option<Duration>,
    /// Ends an unused connection, while `timing`.
    timer: Pin<Box<Sleep>>,
    timing: bool,
    /// There was a request.
    seen: bool,
    /// When the end was announced.
    ending: Option<Instant>,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.trusted && self.shared.consumed() >= TRUSTED {
            self.trusted = true;
            self.connection.set_target_window_size(CONNECTION_WINDOW);
        }
        if let Some(admitting) = &mut self.admitting {
            match admitting.as_mut().poll(cx) {
                Poll::Ready(true) => self.admitting = None,
                Poll::Ready(false) => {
                    self.admitting = None;
                    return Poll::Ready(Event::Full);
                }
                Poll::Pending => {
                    // Those that there are go on.
                    return self.connection.poll_closed(cx).map(Event::Over);
                }
            }
        }
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.seen = true;
                return Poll::Ready(Event::Request(request, respond));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Over(Err(error))),
            Poll::Ready(None) => return Poll::Ready(Event::Over(Ok(()))),
            Poll::Pending => {}
        }
        let limit = match self.ending {
            Some(_) => Some(LINGER),
            None if self.idle.is_some() => self.idle,
            None => (!self.seen).then_some(FIRST_REQUEST),
        };
        let timing = limit.is_some() && !self.connection.has_streams();
        if let (true, false, Some(limit)) = (timing, self.timing, limit) {
            self.timer.as_mut().reset(Instant::now() + limit);
        }
        self.timing = timing;
        if timing { self.timer.as_mut().poll(cx).map(|()| Event::Late) } else { Poll::Pending }
    }

    /// Announces the end: requests that are there go on.
    fn end(&mut self) {
        self.connection.graceful_shutdown();
        self.ending = Some(Instant::now());
        self.timing = false;
    }

    /// Whether the client must have known of the end when it sent what arrives now.
    fn is_late(&self) -> bool {
        self.ending.is_some_and(|since| since.elapsed() > GRACE)
    }
}

fn builder(service: &dyn Service) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(FIRST_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(service.most_streams())
        .max_send_buffer_size(SEND_BUFFER)
        .reset_stream_duration(REMEMBERED)
        .max_concurrent_reset_streams(REMEMBERED_STREAMS)
        .max_pending_accept_reset_streams(RAPID_RESETS)
        .max_local_error_reset_streams(Some(MISTAKES));
    builder
}
