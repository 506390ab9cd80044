//! XTLS Vision: the beginning of a stream is padded, so that the lengths of a TLS handshake inside do not show; when what
//! follows is encrypted by itself (TLS 1.3), both ends leave the outer TLS, one direction at a time, and the bytes go from
//! socket to socket.

mod filter;
mod padding;

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::flow::{BoxStream, Seal, Stream};
use crosspoint_layers::input::Output;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

pub use filter::Filter;
pub use padding::{Command, Padder, PaddingError, Unpadder};

use crate::{lead::ALONE_AFTER, uuid::Uuid};

/// Padded bytes that are gathered before they are sent.
const GATHERED: usize = 32 * 1024;

/// A stream with this flow, at either end. The stream below has to have a [`Seal`].
pub struct Vision {
    inner: BoxStream,
    /// What both directions need while they are padded; nothing afterwards.
    work: Option<Box<Work>>,
    source: Source,
    sink: Sink,
    output: Output,
}

struct Work {
    /// Received with the request, and not read yet.
    ahead: Vec<u8>,
    /// Request or response, which goes with the first bytes.
    head: Vec<u8>,
    /// When the request goes alone.
    alone: Option<Timer>,
    filter: Filter,
    unpadder: Unpadder,
    padder: Padder,
}

enum Timer {
    Idle,
    Running(Pin<Box<Sleep>>),
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Padded,
    Through,
}

/// How is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sink {
    Padded,
    /// As soon as everything was sent, TLS is left.
    Leaving,
    Through,
}

impl Vision {
    /// A client's stream, which begins with a request.
    #[must_use]
    pub fn client(inner: BoxStream, id: Uuid, request: Vec<u8>) -> Self {
        Self::new(inner, id, request, Vec::new(), Some(Timer::Idle))
    }

    /// A server's stream, which begins with a response. `ahead` is what came behind the request.
    #[must_use]
    pub fn server(inner: BoxStream, id: Uuid, response: Vec<u8>, ahead: Vec<u8>) -> Self {
        Self::new(inner, id, response, ahead, None)
    }

    fn new(
        inner: BoxStream,
        id: Uuid,
        head: Vec<u8>,
        ahead: Vec<u8>,
        alone: Option<Timer>,
    ) -> Self {
        let work = Work {
            ahead,
            head,
            alone,
            filter: Filter::default(),
            unpadder: Unpadder::new(id),
            padder: Padder::new(id),
        };
        Self {
            inner,
            work: Some(Box::new(work)),
            source: Source::Padded,
            sink: Sink::Padded,
            output: Output::default(),
        }
    }

    /// Forgets what is needed no more.
    fn settle(&mut self) {
        let over = self.source == Source::Through && self.sink == Sink::Through;
        if over && self.work.as_ref().is_some_and(|work| work.ahead.is_empty()) {
            self.work = None;
        }
    }

    /// Who waits for an answer has to ask, also without data to go with it.
    fn poll_alone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(work) = &mut self.work
            && let Some(timer) = &mut work.alone
        {
            if let Timer::Idle = timer {
                *timer = Timer::Running(Box::pin(sleep(ALONE_AFTER)));
            }
            if let Timer::Running(sleep) = timer
                && sleep.as_mut().poll(cx).is_pending()
            {
                return Ok(());
            }
            work.alone = None;
            let out = self.output.buffer();
            out.append(&mut work.head);
            work.padder.pad_nothing(out);
        }
        if !self.output.is_empty()
            && let Poll::Ready(result) = self.output.poll_drain(cx, &mut self.inner)
        {
            result?;
            if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_flush(cx) {
                result?;
            }
        }
        Ok(())
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.output.is_empty() {
            ready!(self.output.poll_drain(cx, &mut self.inner))?;
        }
        if self.sink == Sink::Leaving {
            if let Some(seal) = self.inner.seal() {
                ready!(seal.poll_open_sink(cx))?;
            }
            self.sink = Sink::Through;
            self.settle();
        }
        Poll::Ready(Ok(()))
    }

    /// Pads as much of `data` as goes out at once.
    fn pad(&mut self, data: &[u8]) -> usize {
        let Some(work) = &mut self.work else { return 0 };
        let out = self.output.buffer();
        work.alone = None;
        out.append(&mut work.head);
        let mut taken = 0;
        while taken < data.len() && out.len() < GATHERED {
            let (n, command) = work.padder.pad(&mut work.filter, &data[taken..], out);
            taken += n;
            self.sink = match command {
                Command::Continue => continue,
                Command::End => Sink::Through,
                Command::Direct => Sink::Leaving,
            };
            break;
        }
        self.settle();
        taken
    }

    /// Reads what is padded. Ready when there is content, or nothing more.
    fn poll_padded(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            let Some(work) = &mut self.work else { return Poll::Ready(Ok(())) };
            if work.ahead.is_empty() {
                ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            } else {
                take(&mut work.ahead, buf);
            }
            let fresh = &mut buf.filled_mut()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let result = work.unpadder.unpad(fresh);
            let content = *result.as_ref().unwrap_or(&0);
            if content > 0 {
                work.filter.look(&fresh[..content]);
            }
            buf.set_filled(before + content);
            result.map_err(invalid)?;
            let next = work.unpadder.next();
            if next != Command::Continue {
                self.source = Source::Through;
                if let Some(seal) = self.inner.seal() {
                    match next {
                        Command::Direct => seal.open_source(),
                        _ => seal.keep_source(),
                    }
                }
                self.settle();
            }
            if content > 0 || self.source == Source::Through {
                // Without content there may still be something behind it.
                return if content > 0 { Poll::Ready(Ok(())) } else { self.poll_through(cx, buf) };
            }
        }
    }

    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(work) = &mut self.work else {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        };
        let before = buf.filled().len();
        if work.ahead.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        } else {
            take(&mut work.ahead, buf);
        }
        if self.sink == Sink::Padded && buf.filled().len() > before {
            work.filter.look(&buf.filled()[before..]);
        }
        self.settle();
        Poll::Ready(Ok(()))
    }
}

fn take(ahead: &mut Vec<u8>, buf: &mut ReadBuf<'_>) {
    let n = ahead.len().min(buf.remaining());
    buf.put_slice(&ahead[..n]);
    ahead.drain(..n);
    if ahead.is_empty() {
        *ahead = Vec::new();
    }
}

fn invalid(error: PaddingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for Vision {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let asks = this.work.as_ref().is_some_and(|work| work.alone.is_some());
        if asks || !this.output.is_empty() {
            this.poll_alone(cx)?;
        }
        match this.source {
            Source::Padded => this.poll_padded(cx, buf),
            Source::Through => this.poll_through(cx, buf),
        }
    }
}

impl AsyncWrite for Vision {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.sink != Sink::Through || !this.output.is_empty() {
            ready!(this.poll_sent(cx))?;
        }
        if this.sink == Sink::Through {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        let taken = this.pad(data);
        match this.output.poll_drain(cx, &mut this.inner) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.sink == Sink::Through && this.output.is_empty() {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        Pin::new(this).poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(work) = &mut this.work
            && !work.head.is_empty()
        {
            // Nothing was written: who asks, or has been asked, still says so.
            work.alone = None;
            let out = this.output.buffer();
            out.append(&mut work.head);
            work.padder.pad_nothing(out);
        }
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Stream for Vision {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.raw_sink().is_some() { self.raw_source() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        let ahead = self.work.as_ref().is_some_and(|work| !work.ahead.is_empty());
        if self.source == Source::Through && !ahead { self.inner.raw_source() } else { None }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        let sent = self.output.is_empty();
        if self.sink == Sink::Through && sent { self.inner.raw_sink() } else { None }
    }

    fn seal(&mut self) -> Option<&mut dyn Seal> {
        // It is this stream's to open.
        None
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}

#[cfg(test)]
mod tests;
