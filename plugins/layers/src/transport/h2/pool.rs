//! The client: connections that streams share.

use bytes::Bytes;
use crosspoint_kernel::DialError;
use h2::{
    SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::Request;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

pub(in crate::transport) use super::drive::KeepAlive;
use super::{
    FRAME, HEADERS, REMEMBERED, REMEMBERED_STREAMS, SEND_BUFFER,
    drive::{Heard, drive},
    failed,
    shared::{Seat, Shared},
    stream::{H2Stream, Wire},
};
use crate::transport::Lower;

/// Most bytes of one stream that arrived and were not read, as in the reference (golang.org/x/net/http2).
const STREAM_WINDOW: u32 = 4 << 20;

/// The same of a connection: so large that a stream that nobody reads does not stop the others.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The connections of one outbound to its server. Streams are opened on one of them as long as the server takes more;
/// another one is dialled when it does not, or when it is about to close. They end when the pool is gone and their last
/// stream has ended.
pub(in crate::transport) struct Pool {
    keep: KeepAlive,
    open: Mutex<Vec<Pooled>>,
    /// One dial at a time; how the last one failed.
    dialling: tokio::sync::Mutex<Option<Failure>>,
}

struct Pooled {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Failure {
    at: Instant,
    error: DialError,
}

/// A request that is on its way.
pub(in crate::transport) struct Opened {
    answer: ResponseFuture,
    send: SendStream<Bytes>,
    seat: Seat,
}

impl Opened {
    /// The bytes of the request and its response.
    pub(in crate::transport) fn stream(self, wire: Wire) -> H2Stream {
        H2Stream::client(self.send, self.answer, wire, self.seat)
    }
}

impl Pool {
    pub(in crate::transport) fn new(keep: KeepAlive) -> Self {
        Self { keep, open: Mutex::default(), dialling: tokio::sync::Mutex::new(None) }
    }

    /// Sends the head of a request, without waiting for the answer.
    ///
    /// # Errors
    /// No connection could be had.
    pub(in crate::transport) async fn request(
        &self,
        request: &Request<()>,
        lower: &dyn Lower,
    ) -> Result<Opened, DialError> {
        let asked = Instant::now();
        if let Some(opened) = self.on_open(request) {
            return Ok(opened);
        }
        let mut last = self.dialling.lock().await;
        // Somebody else may have dialled meanwhile: with success,
        if let Some(opened) = self.on_open(request) {
            return Ok(opened);
        }
        // or in vain; then not everybody who waits tries again, one after the other.
        if let Some(failure) = last.as_ref().filter(|failure| failure.at >= asked) {
            return Err(failure.error.clone());
        }
        match self.dial(request, lower).await {
            Ok(opened) => {
                *last = None;
                Ok(opened)
            }
            Err(error) => {
                *last = Some(Failure { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }

    /// On a connection that there is already.
    fn on_open(&self, request: &Request<()>) -> Option<Opened> {
        let mut open = self.open.lock();
        open.retain(|one| !one.shared.is_over() && !self.is_doubtful(&one.shared));
        let mut at = 0;
        while at < open.len() {
            let one = &mut open[at];
            if one.shared.streams() >= one.requests.current_max_send_streams() {
                at += 1;
                continue;
            }
            // Fails when the server has announced the end of the connection, which goes on for its other streams.
            match one.requests.send_request(request.clone(), false) {
                Ok((answer, send)) => {
                    return Some(Opened { answer, send, seat: Seat::new(&one.shared) });
                }
                Err(_) => drop(open.swap_remove(at)),
            }
        }
        None
    }

    /// Whether a connection was unused for so long that it would have been asked whether it lives, and was not.
    fn is_doubtful(&self, shared: &Shared) -> bool {
        let KeepAlive { idle: Some(idle), unused: false, .. } = self.keep else { return false };
        shared.streams() == 0 && shared.heard().elapsed() > idle
    }

    async fn dial(&self, request: &Request<()>, lower: &dyn Lower) -> Result<Opened, DialError> {
        let carried = lower.open().await?;
        let shared = Shared::new(carried.stream.local_addr());
        let stream = Heard::new(carried.stream, shared.clone());
        let handshake = builder().handshake(stream).await;
        let (mut requests, connection) = handshake.map_err(|error| failed(&error))?;
        // Before the task starts, so that it finds the stream when it first looks.
        let sent = requests.send_request(request.clone(), false);
        let (answer, send) = sent.map_err(|error| failed(&error))?;
        let seat = Seat::new(&shared);
        tokio::spawn(drive(connection, shared.clone(), self.keep));
        self.open.lock().push(Pooled { requests, shared });
        Ok(Opened { answer, send, seat })
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .reset_stream_duration(REMEMBERED)
        .max_concurrent_reset_streams(REMEMBERED_STREAMS)
        // What a server sends on streams that we have given up is no reason to end the others.
        .max_local_error_reset_streams(None);
    builder
}
