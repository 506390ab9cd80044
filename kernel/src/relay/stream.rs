//! Both directions of a byte stream in one future.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    End, Peer, SPLICE_BURSTS, SPLICED_BYTES,
    buffer::{self, Buffer, SIZES},
    pipe::{self, Pipe},
};
use crate::{flow::BoxStream, ledger::Entry};

/// Bytes that one direction moves before other tasks get their turn.
const BUDGET: usize = 4 << 20;

/// Reads that one direction does before other tasks get their turn.
const TURNS: u32 = 64;

/// What a direction holds.
enum State {
    /// Nothing.
    Idle,
    /// Bytes that the sink has not taken yet.
    Held { buffer: Buffer, start: u32, end: u32 },
    /// A pipe, with or without bytes in it.
    Piped(Pipe),
    /// The source has ended; the sink is to be told.
    Closing,
    /// The sink has been told.
    Done,
}

/// One direction.
struct Way {
    state: State,
    /// Where bytes come from; they go to the other end.
    from: Peer,
    /// How busy the source was last: an index into [`SIZES`]; bulk from 1 on.
    level: u8,
    /// The source has ended; pass it on as soon as nothing is held.
    ended: bool,
    /// The source has failed; say so as soon as nothing is held.
    failed: Option<io::Error>,
    /// The sink was written to since it was flushed.
    dirty: bool,
}

/// What went wrong where.
type Failure = (Peer, io::Error);

impl Way {
    fn new(from: Peer) -> Self {
        Self { state: State::Idle, from, level: 0, ended: false, failed: None, dirty: false }
    }

    fn to(&self) -> Peer {
        match self.from {
            Peer::Client => Peer::Server,
            Peer::Server => Peer::Client,
        }
    }

    /// Moves bytes until both sides would block. Ready when this direction is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut BoxStream,
        sink: &mut BoxStream,
        (counter, spliced): (&AtomicU64, &AtomicU64),
    ) -> Poll<Result<(), Failure>> {
        let (mut budget, mut turns) = (BUDGET, TURNS);
        loop {
            let moved = match &mut self.state {
                State::Idle => ready!(self.poll_idle(cx, source, sink, counter))?,
                State::Held { .. } => ready!(self.poll_held(cx, sink, counter))?,
                State::Piped(_) => ready!(self.poll_piped(cx, source, sink, (counter, spliced)))?,
                State::Closing => {
                    return match ready!(Pin::new(&mut *sink).poll_shutdown(cx)) {
                        // The sink went away by itself: its own direction will tell why.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            self.state = State::Done;
                            Poll::Ready(Err((self.to(), error)))
                        }
                        _ => {
                            self.state = State::Done;
                            Poll::Ready(Ok(()))
                        }
                    };
                }
                State::Done => return Poll::Ready(Ok(())),
            };
            budget = budget.saturating_sub(moved);
            turns -= 1;
            if budget == 0 || turns == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Holds nothing: waits for the source, and chooses how to move what it has.
    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut BoxStream,
        sink: &mut BoxStream,
        counter: &AtomicU64,
    ) -> Poll<Result<usize, Failure>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err((self.from, error)));
        }
        if self.ended {
            self.state = State::Closing;
            return Poll::Ready(Ok(0));
        }
        if self.level > 0
            && let Some(raw) = source.raw_source()
            && sink.raw_sink().is_some()
        {
            ready!(raw.poll_read_ready(cx)).map_err(|error| (self.from, error))?;
            if let Some(pipe) = pipe::take() {
                SPLICE_BURSTS.fetch_add(1, Ordering::Relaxed);
                // Until it has moved something.
                self.level = 0;
                self.state = State::Piped(pipe);
                return Poll::Ready(Ok(0));
            }
        }
        let mut bytes = buffer::take(self.level);
        let mut filled = 0;
        let waiting = loop {
            let mut space = ReadBuf::new(&mut bytes[filled..]);
            match Pin::new(&mut *source).poll_read(cx, &mut space) {
                Poll::Pending => break true,
                Poll::Ready(Ok(())) => {
                    let n = space.filled().len();
                    self.ended |= n == 0;
                    filled += n;
                }
                // What was read before it failed still goes out.
                Poll::Ready(Err(error)) => self.failed = Some(error),
            }
            // A busy source is read as long as it has something, for one large write.
            let over = self.ended || self.failed.is_some();
            if over || self.level == 0 || filled == bytes.len() {
                break false;
            }
        };
        if filled == 0 {
            buffer::give(bytes);
            if waiting {
                return self.poll_flush(cx, sink);
            }
            return Poll::Ready(Ok(0));
        }
        self.level = match filled {
            n if n >= SIZES[1] => 2,
            n if n >= SIZES[0] => 1,
            _ => 0,
        };
        self.state = State::Held { buffer: bytes, start: 0, end: filled as u32 };
        self.poll_held(cx, sink, counter)
    }

    /// Writes what is held.
    fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut BoxStream,
        counter: &AtomicU64,
    ) -> Poll<Result<usize, Failure>> {
        let State::Held { buffer, start, end } = &mut self.state else {
            return Poll::Ready(Ok(0));
        };
        let before = *start;
        let result = loop {
            match Pin::new(&mut *sink).poll_write(cx, &buffer[*start as usize..*end as usize]) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    *start += n as u32;
                    if *start >= *end {
                        break Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
            }
        };
        let moved = (*start - before) as usize;
        if moved > 0 {
            counter.fetch_add(moved as u64, Ordering::Relaxed);
            self.dirty = true;
        }
        ready!(result).map_err(|error| (self.to(), error))?;
        if let State::Held { buffer, .. } = std::mem::replace(&mut self.state, State::Idle) {
            buffer::give(buffer);
        }
        Poll::Ready(Ok(moved))
    }

    /// Nothing to read: what a sink buffers must not wait for more.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut BoxStream,
    ) -> Poll<Result<usize, Failure>> {
        if self.dirty {
            ready!(Pin::new(sink).poll_flush(cx)).map_err(|error| (self.to(), error))?;
            self.dirty = false;
        }
        Poll::Pending
    }

    /// Moves data through the pipe.
    fn poll_piped(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut BoxStream,
        sink: &mut BoxStream,
        (counter, spliced): (&AtomicU64, &AtomicU64),
    ) -> Poll<Result<usize, Failure>> {
        let to = self.to();
        let (State::Piped(pipe), Some(source), Some(sink)) =
            (&mut self.state, source.raw_source(), sink.raw_sink())
        else {
            // A stream that has become raw stays raw.
            return Poll::Ready(Err((self.from, io::Error::other("stream is raw no more"))));
        };
        if pipe.len() == 0 {
            match pipe.fill(source) {
                Ok(0) => self.ended = true,
                // A message of a few bytes is better served by a plain read.
                Ok(n) => self.level |= u8::from(n >= SIZES[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err((self.from, error))),
            }
            if pipe.len() == 0 {
                if let State::Piped(pipe) = std::mem::replace(&mut self.state, State::Idle) {
                    pipe::give(pipe);
                }
                return Poll::Ready(Ok(0));
            }
        }
        let mut total = 0;
        while pipe.len() > 0 {
            match pipe.drain(sink) {
                Ok(moved) => {
                    total += moved;
                    counter.fetch_add(moved as u64, Ordering::Relaxed);
                    spliced.fetch_add(moved as u64, Ordering::Relaxed);
                    SPLICED_BYTES.fetch_add(moved as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(sink.poll_write_ready(cx)).map_err(|error| (to, error))?;
                }
                Err(error) => return Poll::Ready(Err((to, error))),
            }
        }
        Poll::Ready(Ok(total))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Held { buffer, .. } => buffer::give(buffer),
            State::Piped(pipe) => pipe::give(pipe),
            _ => {}
        }
    }
}

/// Moves bytes between a client and a server until both directions have ended, one side fails, or
/// the connection is cut. The end of one direction is passed on (half-close) while the other goes on.
/// Payload is counted in `entry` when the receiving socket has taken it.
pub async fn streams(mut client: BoxStream, mut server: BoxStream, entry: &Entry) -> End {
    let (mut up, mut down) = (Way::new(Peer::Client), Way::new(Peer::Server));
    let mut late: Option<Failure> = None;
    poll_fn(move |cx| {
        if let Poll::Ready(cut) = entry.poll_cut(cx) {
            return Poll::Ready(End::Cut(cut));
        }
        let mut pending = false;
        for upwards in [true, false] {
            let (way, source, sink, counter) = match upwards {
                true => (&mut up, &mut client, &mut server, &entry.up),
                false => (&mut down, &mut server, &mut client, &entry.down),
            };
            match way.poll(cx, source, sink, (counter, &entry.spliced)) {
                Poll::Pending => pending = true,
                Poll::Ready(Ok(())) => {}
                // A server that answers and goes before it has read everything resets what is on the
                // way to it, but its answer is still in our socket's queue: deliver that first.
                Poll::Ready(Err(failure))
                    if failure.0 == way.to() && sink.raw_source().is_some() =>
                {
                    way.state = State::Done;
                    late.get_or_insert(failure);
                }
                Poll::Ready(Err((peer, error))) => return Poll::Ready(End::Failed(peer, error)),
            }
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(match late.take() {
            Some((peer, error)) => End::Failed(peer, error),
            None => End::Closed,
        })
    })
    .await
}
