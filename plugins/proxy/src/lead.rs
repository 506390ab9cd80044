//! Streams of protocols that say something once and then carry bytes as they are.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crosspoint_kernel::flow::{BoxStream, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::input::Output;

/// How long a client waits for payload to send with its request, before it sends the request alone: servers that
/// talk first must not wait for ever.
pub(crate) const ALONE_AFTER: Duration = Duration::from_millis(50);

/// Most payload that is copied behind the head.
const FIRST: usize = 64 * 1024;

/// A stream that begins with a head, sent with the first bytes that are written. Afterwards it is the inner stream.
pub(crate) struct Lead {
    inner: BoxStream,
    /// Not sent yet.
    head: Option<Head>,
    output: Output,
}

struct Head {
    bytes: Vec<u8>,
    /// When it goes out by itself; `None` for the answers of servers, which need not.
    timer: Option<Timer>,
}

enum Timer {
    Idle,
    Running(Pin<Box<Sleep>>),
}

impl Lead {
    /// A client's request.
    pub(crate) fn request(inner: BoxStream, bytes: Vec<u8>) -> Self {
        let head = Head { bytes, timer: Some(Timer::Idle) };
        Self { inner, head: Some(head), output: Output::default() }
    }

    /// A server's answer. It goes with the first bytes, or with the end.
    pub(crate) fn answer(inner: BoxStream, bytes: Vec<u8>) -> Self {
        let head = Head { bytes, timer: None };
        Self { inner, head: Some(head), output: Output::default() }
    }

    /// Whether the head goes out by itself when there is nothing else to send.
    fn asks(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.timer.is_some())
    }

    /// Puts the head, and `data` behind it, into what is to be sent.
    fn begin(&mut self, data: &[u8]) {
        if let Some(head) = self.head.take() {
            let out = self.output.buffer();
            out.extend(head.bytes);
            out.extend(data);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_drain(cx, &mut self.inner)
    }

    /// Who waits for an answer has to ask.
    fn poll_alone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(Head { timer: Some(timer), .. }) = &mut self.head {
            if let Timer::Idle = timer {
                *timer = Timer::Running(Box::pin(sleep(ALONE_AFTER)));
            }
            if let Timer::Running(sleep) = timer
                && sleep.as_mut().poll(cx).is_pending()
            {
                return Ok(());
            }
            self.begin(&[]);
        }
        match self.poll_drain(cx) {
            Poll::Ready(result) => {
                result?;
                // What lies above a wrapper that buffers must not wait for more.
                match Pin::new(&mut self.inner).poll_flush(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Ok(()),
                }
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Lead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.asks() || !this.output.is_empty() {
            this.poll_alone(cx)?;
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lead {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.head.is_none() {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        let data = &data[..data.len().min(FIRST)];
        this.begin(data);
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.head.is_none() {
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
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.begin(&[]);
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Stream for Lead {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.head.is_none() && self.output.is_empty() { self.inner.raw_tcp() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        if self.asks() || !self.output.is_empty() { None } else { self.inner.raw_source() }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        if self.head.is_none() && self.output.is_empty() { self.inner.raw_sink() } else { None }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_head_goes_with_the_first_bytes_or_alone() {
        let (near, mut far) = duplex(1000);
        let mut lead = Lead::request(Box::new(near), b"head ".to_vec());
        lead.write_all(b"body").await.unwrap();
        lead.flush().await.unwrap();
        let mut bytes = [0; 9];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"head body");

        let (near, mut far) = duplex(1000);
        let mut lead = Lead::request(Box::new(near), b"head".to_vec());
        let answer = tokio::spawn(async move {
            let mut bytes = [0; 2];
            lead.read_exact(&mut bytes).await.map(|_| bytes)
        });
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"head");
        far.write_all(b"ok").await.unwrap();
        assert_eq!(answer.await.unwrap().unwrap(), *b"ok");
    }
}
