//! Bytes and packets that were read ahead and are given back.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Batch, BoxPacketIo, BoxStream, PacketIo, Stream};
use crate::{addr::Target, error::DialError};

/// A stream with bytes in front that were read ahead. Transparent once they are drained.
pub struct Prefixed {
    prefix: Bytes,
    inner: BoxStream,
}

impl Prefixed {
    /// Puts `prefix` in front of `inner`.
    pub fn new(prefix: Bytes, inner: BoxStream) -> Self {
        Self { prefix, inner }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
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

impl Stream for Prefixed {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.prefix.is_empty() { self.inner.raw_tcp() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        if self.prefix.is_empty() { self.inner.raw_source() } else { None }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        self.inner.raw_sink()
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

/// An association with datagrams in front that were read ahead.
pub struct PrefixedPackets {
    prefix: std::collections::VecDeque<(Bytes, Target)>,
    inner: BoxPacketIo,
}

impl PrefixedPackets {
    /// Puts `prefix` in front of `inner`.
    pub fn new(prefix: impl IntoIterator<Item = (Bytes, Target)>, inner: BoxPacketIo) -> Self {
        Self { prefix: prefix.into_iter().collect(), inner }
    }
}

impl PacketIo for PrefixedPackets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        if self.prefix.is_empty() {
            return self.inner.poll_recv(cx, batch);
        }
        let mut added = 0;
        while !batch.is_full() {
            let Some((payload, peer)) = self.prefix.pop_front() else { break };
            added += usize::from(batch.push(&payload, peer));
        }
        if self.prefix.is_empty() {
            self.prefix = Default::default();
        }
        Poll::Ready(Ok(added))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.inner.poll_send(cx, batch)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.inner.poll_answer(cx, outcome)
    }
}
