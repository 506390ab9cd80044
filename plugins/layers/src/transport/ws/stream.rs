//! A stream in binary messages.
//!
//! **Reading** needs no buffer of its own: bytes from below go straight to where the caller wants them, and the heads
//! between the payload are closed up in place. Within a long frame a read ends just behind the head of the next one, so
//! that there is next to nothing to close up and one call for each frame.
//!
//! **Writing** at the server sends heads and payload in one gathered call, as they lie. At the client payload is masked
//! on its way into a buffer of the thread, which goes back as soon as it is sent.
//!
//! **Closing.** WebSocket has no half-close: a `Close` frame ends a side's data, and the reference then closes the
//! connection, with whatever was under way in the other direction. Here a side that ends sends `Close` and goes on
//! reading, and a side that receives `Close` may go on sending until it ends by itself. A peer that answers `Close` by
//! going away loses nothing by that; one of our kind, and the reference as a server, keep the other direction.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use crosspoint_kernel::flow::{BoxStream, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    buffer::Buffer,
    frame::{Control, Decoder, Found, Head, MAX_HEAD, Opcode},
    mask::{self, Key},
};

/// Most payload of a frame that is sent, in bytes: with the head of a client it makes 64 KiB, which TLS below takes at
/// once, in full records.
const MAX_PAYLOAD: usize = 64 * 1024 - 8;

/// Frames of one gathered write: all that the relay has in its largest buffer.
const FRAMES: usize = 5;

/// Pieces of one gathered write.
const PIECES: usize = 16;

/// Bytes that are read at once where frames are short: so many may have to be moved to close up the heads.
const SHORT: usize = 32 * 1024;

/// Code of a `Close` frame that ends a stream well (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;

/// How reading ended.
enum End {
    Well,
    /// The peer closed with another code.
    Closed(u16),
}

/// Which side of a connection a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// A WebSocket connection after its handshake.
pub(crate) struct WsStream {
    inner: BoxStream,
    role: Role,
    /// Frames are made in a buffer: to be masked, or because the stream below takes one piece at a time.
    copies: bool,
    decoder: Decoder,
    end: Option<End>,
    /// Frames that were made and not sent.
    output: Output,
    /// Of the frame that is being sent as it lies: the rest of its head, and the payload that it announces.
    head: Head,
    left: usize,
    /// A frame that controls, to be sent between two others.
    owed: Option<Box<Owed>>,
    /// Our `Close` is on its way.
    closing: bool,
    /// The peer's `Close` has come.
    closed: bool,
    /// Who writes has had to wait for the stream below.
    blocked: bool,
}

/// Bytes in a buffer of the thread.
#[derive(Default)]
struct Output {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

impl Output {
    fn rest(&self) -> &[u8] {
        let bytes = self.buffer.as_ref().map_or(&[][..], Buffer::bytes);
        bytes.get(self.start..self.end).unwrap_or_default()
    }
}

struct Owed {
    bytes: Vec<u8>,
    sent: usize,
}

/// One frame of a gathered write.
#[derive(Clone, Copy, Default)]
struct Part {
    head: Head,
    /// Payload that is there.
    len: usize,
    /// Payload that the frame is still to have.
    announced: usize,
}

impl WsStream {
    /// A connection; the handshake is over.
    pub(crate) fn new(inner: BoxStream, role: Role) -> Self {
        Self {
            copies: role == Role::Client || !inner.is_write_vectored(),
            inner,
            role,
            decoder: Decoder::default(),
            end: None,
            output: Output::default(),
            head: Head::default(),
            left: 0,
            owed: None,
            closing: false,
            closed: false,
            blocked: false,
        }
    }

    fn key(&self) -> io::Result<Option<Key>> {
        match self.role {
            Role::Client => mask::key().map(Some),
            Role::Server => Ok(None),
        }
    }

    /// Whether a frame has begun that only further payload completes.
    fn is_within(&self) -> bool {
        self.left > 0 || !self.head.bytes().is_empty()
    }

    fn owe(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        // Only the last ping needs an answer (RFC 6455 §5.5.3).
        if self.owed.as_ref().is_some_and(|owed| owed.sent > 0) && opcode == Opcode::Pong {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(payload.len() + MAX_HEAD);
        Control::emit(opcode, payload, self.key()?, &mut bytes);
        match &mut self.owed {
            Some(owed) if owed.sent > 0 => owed.bytes.extend(bytes),
            owed => *owed = Some(Box::new(Owed { bytes, sent: 0 })),
        }
        Ok(())
    }

    /// Sends what was made.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_drain_now(cx);
        self.blocked = polled.is_pending();
        polled
    }

    fn poll_drain_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.rest().is_empty() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, self.output.rest()))?;
            self.output.start += some(n)?;
        }
        self.output = Output::default();
        if self.is_within() {
            return Poll::Ready(Ok(()));
        }
        if let Some(owed) = &mut self.owed {
            while let Some(rest @ [_, ..]) = owed.bytes.get(owed.sent..) {
                let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
                owed.sent += some(n)?;
            }
            self.owed = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes frames in a buffer, as many as fit.
    fn poll_copied(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        total: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let mut bufs = bufs.iter().map(|buf| &buf[..]);
        let mut from: &[u8] = &[];
        let mut buffer = Buffer::take(total);
        let bytes = buffer.bytes_mut();
        let (mut end, mut rest) = (0, total);
        while rest > 0 {
            let len = rest.min(MAX_PAYLOAD);
            if end + MAX_HEAD + len > bytes.len() {
                break;
            }
            let key = self.key()?;
            let head = Head::new(Opcode::Binary, len as u64, key);
            let (front, mut space) = frame_space(bytes, end, head.bytes().len(), len);
            front.copy_from_slice(head.bytes());
            let mut key = key.unwrap_or_default();
            while !space.is_empty() {
                if from.is_empty() {
                    let Some(next) = bufs.next() else { break };
                    from = next;
                    continue;
                }
                let n = from.len().min(space.len());
                let (now, later) = from.split_at(n);
                let (to, further) = space.split_at_mut(n);
                mask::copy(key, now, to);
                key = mask::behind(key, n);
                (from, space) = (later, further);
            }
            end += head.bytes().len() + len;
            rest -= len;
        }
        self.output = Output { buffer: Some(buffer), start: 0, end };
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the stream below does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(total - rest)),
        }
    }

    /// Sends payload as it lies.
    fn poll_gathered(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        total: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.is_within() {
                ready!(self.poll_drain(cx))?;
            }
            let (parts, count) = self.parts(total);
            let parts = parts.get(..count).unwrap_or_default();
            let polled = {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let count = lay_out(parts, bufs, &mut pieces);
                let pieces = pieces.get(..count).unwrap_or_default();
                Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
            };
            self.blocked = polled.is_pending();
            let sent = some(ready!(polled)?)?;
            let payload = self.account(parts, sent);
            if payload > 0 {
                return Poll::Ready(Ok(payload));
            }
        }
    }

    /// The frames of a write of `total` bytes.
    fn parts(&self, total: usize) -> ([Part; FRAMES], usize) {
        let mut parts = [Part::default(); FRAMES];
        let (mut rest, mut count) = (total, 0);
        for part in &mut parts {
            if rest == 0 && count > 0 {
                break;
            }
            *part = if count == 0 && self.is_within() {
                Part { head: self.head, len: rest.min(self.left), announced: self.left }
            } else {
                let len = rest.min(MAX_PAYLOAD);
                Part { head: Head::new(Opcode::Binary, len as u64, None), len, announced: len }
            };
            rest -= part.len;
            count += 1;
        }
        (parts, count)
    }

    /// Notes that `sent` bytes of these frames have gone; returns how many of them were payload.
    fn account(&mut self, parts: &[Part], mut sent: usize) -> usize {
        let mut payload = 0;
        for part in parts {
            if sent == 0 {
                break;
            }
            let mut head = part.head;
            let of_head = sent.min(head.bytes().len());
            head.advance(of_head);
            sent -= of_head;
            let of_payload = sent.min(part.len);
            sent -= of_payload;
            payload += of_payload;
            (self.head, self.left) = (head, part.announced - of_payload);
        }
        payload
    }

    /// Takes apart what was read.
    fn take(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> io::Result<usize> {
        let mut found = Found::default();
        let decoded = self.decoder.decode(bytes, &mut found);
        let n = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(code) = found.close {
            self.closed = true;
            // A server has nothing to wait for when both have closed. A client waits for the server to end the
            // connection (RFC 6455 §7.1.1), and takes what it sends until then.
            if !(self.role == Role::Client && self.closing) {
                self.end = Some(match code {
                    None | Some(NORMAL) => End::Well,
                    Some(code) => End::Closed(code),
                });
            }
        }
        if let Some(ping) = found.ping.filter(|_| !self.closing) {
            self.owe(Opcode::Pong, ping.payload())?;
            self.answer(cx);
        }
        Ok(n)
    }

    /// Sends a pong from within a read. Who waits to write is not to lose its place below: then the pong goes with the
    /// next write.
    fn answer(&mut self, cx: &mut Context<'_>) {
        if self.owed.is_some() && !self.blocked && !self.is_within() {
            // What is wrong with the stream will be said by the next read or write.
            if let Poll::Ready(Ok(())) = self.poll_drain_now(cx) {
                let _ = Pin::new(&mut self.inner).poll_flush(cx);
            }
        }
    }
}

/// The space in `buffer` for a frame at `at`: its head, its payload.
fn frame_space(buffer: &mut [u8], at: usize, head: usize, len: usize) -> (&mut [u8], &mut [u8]) {
    buffer.get_mut(at..at + head + len).unwrap_or_default().split_at_mut(head)
}

/// Lays heads and payload out in turn, as far as there is space; returns the number of pieces.
fn lay_out<'a>(
    parts: &'a [Part],
    bufs: &'a [IoSlice<'a>],
    pieces: &mut [IoSlice<'a>; PIECES],
) -> usize {
    let mut spaces = pieces.iter_mut();
    let mut count = 0;
    let mut put = |bytes: &'a [u8]| {
        let Some(space) = spaces.next() else { return false };
        *space = IoSlice::new(bytes);
        count += 1;
        true
    };
    let mut bufs = bufs.iter().map(|buf| &buf[..]);
    let mut buf: &[u8] = &[];
    'parts: for part in parts {
        let head = part.head.bytes();
        if !head.is_empty() && !put(head) {
            break;
        }
        let mut rest = part.len;
        while rest > 0 {
            if buf.is_empty() {
                let Some(next) = bufs.next() else { break 'parts };
                buf = next;
                continue;
            }
            let (now, later) = buf.split_at(rest.min(buf.len()));
            if !put(now) {
                break 'parts;
            }
            (buf, rest) = (later, rest - now.len());
        }
    }
    count
}

fn some(n: usize) -> io::Result<usize> {
    if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
}

impl AsyncRead for WsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.owed.is_some() {
            this.answer(cx);
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.end {
                None => {}
                Some(End::Well) => return Poll::Ready(Ok(())),
                Some(End::Closed(code)) => {
                    let text = format!("websocket: closed by the peer with code {code}");
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        text,
                    )));
                }
            }
            let left = usize::try_from(this.decoder.left()).unwrap_or(usize::MAX);
            let want = left.saturating_add(MAX_HEAD).max(SHORT).min(buf.remaining());
            let space = buf.initialize_unfilled_to(want);
            let mut raw = ReadBuf::new(space);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut raw)) {
                Err(error) if !this.closed => return Poll::Ready(Err(error)),
                Ok(()) if !raw.filled().is_empty() => {
                    let n = this.take(cx, raw.filled_mut())?;
                    buf.advance(n);
                    if n > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Ok(()) if !this.closed && !this.decoder.is_between() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                _ => this.end = Some(End::Well),
            }
        }
    }
}

impl AsyncWrite for WsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let total = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            Poll::Ready(Ok(0))
        } else if this.copies {
            this.poll_copied(cx, bufs, total)
        } else {
            this.poll_gathered(cx, bufs, total)
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_within() {
            // A frame that will never be complete: there is no way to close well.
            return Pin::new(&mut this.inner).poll_shutdown(cx);
        }
        if !this.closing {
            this.owe(Opcode::Close, &NORMAL.to_be_bytes())?;
            this.closing = true;
            if this.role == Role::Client {
                this.decoder.through();
            }
        }
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        if this.closed {
            return Pin::new(&mut this.inner).poll_shutdown(cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection that is given up ends with `Close` too, as the reference does it, if that can be sent at once.
impl Drop for WsStream {
    fn drop(&mut self) {
        if self.closing || self.is_within() || !self.output.rest().is_empty() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut frame = Vec::with_capacity(MAX_HEAD);
        if let Ok(key) = self.key() {
            Control::emit(Opcode::Close, &NORMAL.to_be_bytes(), key, &mut frame);
            if Pin::new(&mut self.inner).poll_write(&mut cx, &frame).is_ready() {
                let _ = Pin::new(&mut self.inner).poll_flush(&mut cx);
            }
        }
    }
}

impl Stream for WsStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }
}
