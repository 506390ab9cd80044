//! TCP Fast Open on the client side: the connection is made by the first write.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::{flow::Stream, net::dial_error};

/// A stream that may not be connected yet. Transparent once a first write or read has succeeded.
pub(super) struct FastOpen {
    stream: TcpStream,
    /// `Some` until the first success.
    opening: Option<Box<Opening>>,
}

struct Opening {
    addr: SocketAddr,
    timeout: Duration,
    /// Runs from the first write on: nothing is being tried before that.
    timer: Option<Pin<Box<Sleep>>>,
}

impl FastOpen {
    pub(super) fn new(stream: TcpStream, addr: SocketAddr, timeout: Duration) -> Self {
        Self { stream, opening: Some(Box::new(Opening { addr, timeout, timer: None })) }
    }

    /// Looks at the outcome of a write.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some(opening) = &mut self.opening else { return result };
        match result {
            Poll::Ready(Ok(n)) => {
                self.opening = None;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(opening.failed(&error))),
            Poll::Pending => {
                let timeout = opening.timeout;
                let timer = opening.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        Poll::Ready(Err(opening.failed(&io::ErrorKind::TimedOut.into())))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl Opening {
    fn failed(&self, error: &io::Error) -> io::Error {
        dial_error("tcp", self.addr, error).into()
    }
}

impl AsyncRead for FastOpen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match (&result, &self.opening) {
            (Poll::Ready(Ok(())), Some(_)) => self.opening = None,
            (Poll::Ready(Err(error)), Some(opening)) => {
                return Poll::Ready(Err(opening.failed(error)));
            }
            _ => {}
        }
        result
    }
}

impl AsyncWrite for FastOpen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.opening.is_some() {
            // To end a connection that is still to be made would unmake it: make it first.
            std::task::ready!(self.as_mut().poll_write(cx, &[]))?;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Stream for FastOpen {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.opening.is_none() { Some(&mut self.stream) } else { None }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        TcpStream::local_addr(&self.stream).ok()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }
}
