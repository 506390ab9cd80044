//! The stream that splits what is written first.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crosspoint_kernel::{
    error::DialError,
    flow::{BoxStream, Stream},
    net::unacked,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{Split, Wanted, cuts, hello::HEADER};
use crate::client::FALLBACK_DELAY;

/// Time between two looks at whether a segment has arrived.
const POLL: Duration = Duration::from_millis(10);

/// An acknowledgement that comes so soon may be that of a middlebox close by, which would put the segments
/// together again: the reference's measure.
const SUSPICIOUS: Duration = Duration::from_millis(20);

/// A segment that was not acknowledged for so long is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Splits the first record that is written if it is a ClientHello; from then on it is not there.
pub struct Fragmenting {
    inner: BoxStream,
    state: State,
}

enum State {
    /// What was written so far, until the record is complete.
    Collecting(Split, Vec<u8>),
    /// Pieces on their way.
    Sending(Box<Sending>),
    /// Nothing is left to do.
    Through,
}

struct Sending {
    split: Split,
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first piece is out.
    sent: usize,
    wait: Option<Wait>,
}

/// Waiting for a segment to arrive.
struct Wait {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// The time is fixed: the acknowledgement is not looked for.
    blind: bool,
}

impl Fragmenting {
    /// Splits what is written to `inner` first.
    #[must_use]
    pub fn new(inner: BoxStream, split: Split) -> Self {
        Self { inner, state: State::Collecting(split, Vec::new()) }
    }

    /// Takes bytes in until the record is complete, and cuts it. The number of bytes taken; `None` when they are
    /// to be passed on.
    fn collect(&mut self, bytes: &[u8]) -> Option<usize> {
        let State::Collecting(split, held) = &mut self.state else { return None };
        let before = held.len();
        let mut wanted = HEADER;
        for _ in 0..2 {
            let missing = wanted.saturating_sub(held.len());
            let taken = held.len() - before;
            let more = bytes.get(taken..).unwrap_or_default();
            held.extend_from_slice(more.get(..missing.min(more.len())).unwrap_or_default());
            match Wanted::of(held) {
                Wanted::Nothing => {
                    // What was held back goes out as it is.
                    let taken = held.len() - before;
                    let whole = std::mem::take(held);
                    self.send(vec![whole], Split::default());
                    return Some(taken);
                }
                Wanted::Record(len) => wanted = len,
            }
        }
        let taken = held.len() - before;
        if held.len() >= wanted {
            let (split, record) = (*split, std::mem::take(held));
            let cuts = cuts(&record, random);
            self.send(pieces(&record, &cuts, split), split);
        }
        Some(taken)
    }

    fn send(&mut self, pieces: Vec<Vec<u8>>, split: Split) {
        let pieces = VecDeque::from(pieces);
        self.state = State::Sending(Box::new(Sending { split, pieces, sent: 0, wait: None }));
    }

    /// Sends pieces. Ready when none is left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Sending(sending) = &mut self.state else { return Poll::Ready(Ok(())) };
        loop {
            if let Some(wait) = &mut sending.wait {
                ready!(wait.poll(cx, &mut self.inner, sending.split));
                sending.wait = None;
            }
            let Some(piece) = sending.pieces.front() else { break };
            let rest = piece.get(sending.sent..).unwrap_or_default();
            if rest.is_empty() {
                // Out of every layer below, too.
                ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
                sending.pieces.pop_front();
                sending.sent = 0;
                if sending.split.segments && !sending.pieces.is_empty() {
                    sending.wait = Some(Wait::new(&mut self.inner, sending.split));
                }
                continue;
            }
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            sending.sent += n;
        }
        self.state = State::Through;
        Poll::Ready(Ok(()))
    }

    /// Before the stream is closed: what is held back is no ClientHello, and goes out.
    fn release(&mut self) {
        if let State::Collecting(_, held) = &mut self.state {
            let held = std::mem::take(held);
            if held.is_empty() {
                self.state = State::Through;
            } else {
                self.send(vec![held], Split::default());
            }
        }
    }
}

/// The bytes to write, one after another.
fn pieces(record: &[u8], cuts: &[usize], split: Split) -> Vec<Vec<u8>> {
    let (Some(header), Some(kind)) = (record.get(..HEADER), record.get(..3)) else {
        return vec![record.to_vec()];
    };
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    let mut start = if split.records { HEADER } else { 0 };
    for end in cuts.iter().copied().chain([record.len()]) {
        let Some(payload) = record.get(start..end) else { continue };
        start = end;
        let mut piece = Vec::with_capacity(header.len() + payload.len());
        if split.records {
            piece.extend_from_slice(kind);
            // A part of a record is no longer than the record.
            let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            piece.extend_from_slice(&len.to_be_bytes());
        }
        piece.extend_from_slice(payload);
        pieces.push(piece);
    }
    if split.segments { pieces } else { vec![pieces.concat()] }
}

/// A place below `n`.
fn random(n: usize) -> usize {
    let mut bytes = [0; 4];
    // Without randomness every label is cut at its start, which is as good as any other place.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    usize::try_from(u32::from_ne_bytes(bytes)).unwrap_or(0) % n.max(1)
}

impl Wait {
    fn new(inner: &mut BoxStream, split: Split) -> Self {
        let since = Instant::now();
        let delay = split.fallback_delay.unwrap_or(FALLBACK_DELAY);
        let blind = match inner.raw_tcp() {
            Some(tcp) => {
                // Segments are to leave at once.
                let _ = tcp.set_nodelay(true);
                unacked(tcp).is_err()
            }
            None => true,
        };
        let until = if blind { since + delay } else { since };
        Self { since, timer: Box::pin(sleep_until(until)), blind }
    }

    fn poll(&mut self, cx: &mut Context<'_>, inner: &mut BoxStream, split: Split) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.blind {
                return Poll::Ready(());
            }
            let waiting = inner.raw_tcp().and_then(|tcp| unacked(tcp).ok()).unwrap_or(0) > 0;
            let age = self.since.elapsed();
            if waiting && age < PATIENCE {
                self.timer.as_mut().reset(Instant::now() + POLL);
            } else if age <= SUSPICIOUS {
                self.blind = true;
                let delay = split.fallback_delay.unwrap_or(FALLBACK_DELAY);
                self.timer.as_mut().reset(Instant::now() + delay);
            } else {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Fragmenting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever reads waits for an answer to what is being sent. An error of the writing is the writer's.
        let _ = self.poll_send(cx);
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Fragmenting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.collect(buf) {
            Some(taken) => {
                // A start; the rest goes out with the next call or the flush.
                if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(taken))
            }
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.release();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if matches!(self.state, State::Through) {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        // The first hello may be spread over several buffers: it must be seen as one.
        let mut taken = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match self.as_mut().poll_write(cx, buf) {
                Poll::Ready(Ok(n)) => {
                    taken += n;
                    if n < buf.len() {
                        break;
                    }
                }
                other if taken == 0 => return other,
                _ => break,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Stream for Fragmenting {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if matches!(self.state, State::Through) { self.inner.raw_tcp() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        if matches!(self.state, State::Through) { self.inner.raw_source() } else { None }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        if matches!(self.state, State::Through) { self.inner.raw_sink() } else { None }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.inner.poll_answer(cx, outcome)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}
