//! Queries in a byte stream, each with its length in two bytes in front (RFC 1035 §4.2.2, RFC 7766).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use crosspoint_kernel::{
    flow::BoxStream,
    resolve::{Ask, NO_TRAIL},
    session::Session,
    snapshot::Plane,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{Desk, IDLE, PATIENCE, wire};

/// Queries of one stream that may wait; then nothing is read until one is answered.
const WAITING: usize = 128;

/// Bytes of queries that may wait.
const WAITING_BYTES: usize = 256 * 1024;

/// Bytes of answers that may wait for a client that does not read.
const UNSENT: usize = 256 * 1024;

/// Bytes that are read at once.
const CHUNK: usize = 8 * 1024;

/// Buffers above this many bytes are given back as soon as they are empty; smaller ones when the stream rests.
const KEPT: usize = 16 * 1024;

/// Rounds before other tasks get their turn.
const TURNS: u32 = 8;

/// Answers the queries of a stream, in the order in which answers are there, until the client has nothing more to ask,
/// has been silent for [`IDLE`], or sends what is no query. What was asked before is answered still.
///
/// # Errors
/// The stream broke, or the client sent what is no query.
pub async fn stream(client: BoxStream, session: &Session, plane: &Plane) -> io::Result<()> {
    let mut server = Server {
        client,
        session,
        plane,
        desk: Desk::default(),
        input: Vec::new(),
        output: Vec::new(),
        sent: 0,
        unflushed: false,
        end: None,
        last: Instant::now(),
        timer: Box::pin(tokio::time::sleep(IDLE)),
    };
    poll_fn(|cx| server.poll(cx)).await
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client has said all.
    Closed,
    /// What it says is no DNS.
    Garbage,
    /// A rule says that a query is not to be answered.
    Dropped,
}

struct Server<'a> {
    client: BoxStream,
    session: &'a Session,
    plane: &'a Plane,
    desk: Desk<'a, ()>,
    /// What was read and is not yet taken: the beginning of a query, and what there is no room for.
    input: Vec<u8>,
    /// Answers, and how much of them is written.
    output: Vec<u8>,
    sent: usize,
    unflushed: bool,
    end: Option<End>,
    /// When a query was complete or an answer left.
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Server<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            let mut busy = self.take();
            busy |= self.read(cx)?;
            busy |= self.collect(cx);
            busy |= self.write(cx)?;
            if let Some(end) = self.end
                && self.desk.is_empty()
                && self.output.is_empty()
                && !self.unflushed
            {
                if Pin::new(&mut self.client).poll_shutdown(cx)?.is_pending() {
                    return self.poll_idle(cx);
                }
                return Poll::Ready(match end {
                    End::Closed | End::Dropped => Ok(()),
                    End::Garbage => Err(io::Error::new(io::ErrorKind::InvalidData, "no DNS query")),
                });
            }
            if !busy {
                return self.poll_idle(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether more queries may be taken.
    fn has_room(&self) -> bool {
        self.desk.len() < WAITING
            && self.desk.bytes() < WAITING_BYTES
            && self.output.len() - self.sent < UNSENT
    }

    /// Reads once. Returns whether anything came.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.end.is_some() || !self.has_room() {
            return Ok(false);
        }
        let mut space = [MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut space);
        match Pin::new(&mut self.client).poll_read(cx, &mut chunk) {
            Poll::Pending => return Ok(false),
            Poll::Ready(result) => result?,
        }
        let chunk = chunk.filled();
        if chunk.is_empty() {
            self.end = Some(End::Closed);
        } else if self.input.is_empty() {
            // Most reads end with a query: nothing is kept then.
            let taken = self.take_from(chunk);
            self.input.extend_from_slice(&chunk[taken..]);
        } else {
            self.input.extend_from_slice(chunk);
            self.take();
        }
        Ok(true)
    }

    /// Takes queries that were read. Returns whether there was one.
    fn take(&mut self) -> bool {
        if self.input.is_empty() || self.end.is_some() {
            return false;
        }
        let mut input = std::mem::take(&mut self.input);
        let taken = self.take_from(&input);
        input.drain(..taken);
        if !input.is_empty() || input.capacity() <= KEPT {
            self.input = input;
        }
        taken > 0
    }

    /// Takes the queries at the beginning of `bytes`, as long as there is room. Returns the bytes taken.
    fn take_from(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut resolver = None;
        while self.end.is_none() && self.has_room() {
            let rest = &bytes[taken..];
            let Some(length) = rest.first_chunk().map(|two| usize::from(u16::from_be_bytes(*two)))
            else {
                break;
            };
            if length > 0 && rest.len() < 2 + length {
                break;
            }
            let message = &rest[2..2 + length];
            taken += 2 + length;
            self.last = Instant::now();
            if wire::hear(message).is_none() {
                self.end = Some(End::Garbage);
                break;
            }
            let resolver = resolver.get_or_insert_with(|| self.plane.resolver());
            let session = Some(self.session);
            let ask = Ask { message, session, server: None, trail: &NO_TRAIL };
            let start = self.output.len();
            self.output.extend_from_slice(&[0; 2]);
            if resolver.exchange_now(ask, &mut self.output) {
                self.finish(start);
            } else {
                self.output.truncate(start);
                self.desk.ask(resolver.clone(), self.session, message, ());
            }
        }
        taken
    }

    /// Writes the length of the answer that begins at `start` of the output in front of it.
    fn finish(&mut self, start: usize) {
        match u16::try_from(self.output.len() - start - 2) {
            Ok(length) => self.output[start..start + 2].copy_from_slice(&length.to_be_bytes()),
            // No message is that long.
            Err(_) => self.output.truncate(start),
        }
    }

    /// Takes answers that are there. Returns whether any was.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.output.len() - self.sent < UNSENT
            && let Poll::Ready(reply) = self.desk.poll_reply(cx)
        {
            any = true;
            let Some(answer) = reply.message else {
                self.end = Some(End::Dropped);
                continue;
            };
            let start = self.output.len();
            self.output.extend_from_slice(&[0; 2]);
            self.output.extend_from_slice(&answer);
            self.finish(start);
        }
        any
    }

    /// Writes answers. Returns whether any byte left.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while self.sent < self.output.len() {
            match Pin::new(&mut self.client).poll_write(cx, &self.output[self.sent..]) {
                Poll::Pending => return Ok(any),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => self.sent += result?,
            }
            (any, self.unflushed) = (true, true);
            self.last = Instant::now();
        }
        if self.sent > 0 {
            self.sent = 0;
            self.output.clear();
            if self.output.capacity() > KEPT {
                self.output = Vec::new();
            }
        }
        if self.unflushed && Pin::new(&mut self.client).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(any)
    }

    /// Ready when nothing has happened for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.desk.is_empty() && self.output.is_empty() && self.input.is_empty() {
            // A stream at rest holds no memory.
            (self.input, self.output) = (Vec::new(), Vec::new());
        }
        // What is waited for has a limit of its own.
        let limit = if self.desk.is_empty() { IDLE } else { PATIENCE + IDLE };
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.last + limit;
            if due <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
            self.timer.as_mut().reset(due.min(Instant::now() + IDLE));
        }
        Poll::Pending
    }
}
