//! What lies below a TLS connection, and may come to light again.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use crosspoint_kernel::flow::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Type, version, length (RFC 8446 §5.1).
const HEAD: usize = 5;

/// Most that is received at once while records are handed over one by one: the longest record and a little more.
const ROOM: usize = 17 * 1024;

/// The stream below. Where the connection may be left, rustls is given one record at a time, so that it never sees what
/// is none.
pub(crate) struct Below {
    pub(crate) inner: BoxStream,
    records: Option<Box<Records>>,
}

struct Records {
    /// Received, and not handed over.
    held: BytesMut,
    /// What is missing of the record that is being handed over.
    rest: usize,
    pace: Pace,
    /// Was asked for a record that it did not hand over.
    starved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Records are handed over as they are asked for, none ahead of time.
    Handshake,
    /// The next one waits.
    Stop,
    /// The next one may go.
    Go,
    /// Everything may go.
    Through,
}

impl Below {
    /// `records`: whether the connection may be left.
    pub(crate) fn new(inner: BoxStream, records: bool) -> Self {
        let fresh =
            Records { held: BytesMut::new(), rest: 0, pace: Pace::Handshake, starved: false };
        Self { inner, records: records.then(|| Box::new(fresh)) }
    }

    /// After the handshake: no further record unless told so. False where the connection cannot be left.
    pub(crate) fn stop(&mut self) -> bool {
        match &mut self.records {
            Some(records) => {
                records.pace = Pace::Stop;
                true
            }
            None => false,
        }
    }

    /// Whether a record was asked for while none may go, since this was called last.
    pub(crate) fn starved(&mut self) -> bool {
        self.records.as_mut().is_some_and(|records| std::mem::take(&mut records.starved))
    }

    /// One more record may go.
    pub(crate) fn go(&mut self) {
        if let Some(records) = &mut self.records {
            records.pace = Pace::Go;
        }
    }

    /// The connection will not be left.
    pub(crate) fn through(&mut self) {
        if let Some(records) = &mut self.records {
            records.pace = Pace::Through;
        }
    }

    /// Moves what was received and not handed over into `buf`. False when there is nothing, now and for ever.
    pub(crate) fn take_held(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(records) = &mut self.records else { return false };
        if records.held.is_empty() {
            self.records = None;
            return false;
        }
        records.hand_over(buf, usize::MAX);
        true
    }

    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(records) = &mut self.records else {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        };
        if records.pace == Pace::Through {
            if self.take_held(buf) {
                return Poll::Ready(Ok(()));
            }
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        if records.rest == 0 {
            if records.pace == Pace::Stop {
                records.starved = true;
                return Poll::Pending;
            }
            while records.held.len() < HEAD {
                if ready!(records.poll_receive(cx, &mut self.inner))? == 0 {
                    // The end, or less than a record: rustls knows what to say.
                    records.hand_over(buf, HEAD);
                    return Poll::Ready(Ok(()));
                }
            }
            records.rest =
                HEAD + usize::from(u16::from_be_bytes([records.held[3], records.held[4]]));
            if records.pace == Pace::Go {
                records.pace = Pace::Stop;
            }
        }
        if records.held.is_empty() && ready!(records.poll_receive(cx, &mut self.inner))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let n = records.hand_over(buf, records.rest);
        records.rest -= n;
        Poll::Ready(Ok(()))
    }
}

impl Records {
    /// Receives more; 0 is the end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut BoxStream,
    ) -> Poll<io::Result<usize>> {
        self.held.reserve(ROOM);
        let polled = tokio_util::io::poll_read_buf(Pin::new(inner), cx, &mut self.held);
        if polled.is_pending() && self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = BytesMut::new();
        }
        polled
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> usize {
        let n = most.min(self.held.len()).min(buf.remaining());
        buf.put_slice(&self.held[..n]);
        self.held.advance(n);
        n
    }
}

impl AsyncRead for Below {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_records(cx, buf)
    }
}

impl AsyncWrite for Below {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
