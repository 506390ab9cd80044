//! A stream that begins with the response of a server.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::flow::{BoxStream, Seal, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream at the client, from which the response is taken. Afterwards it is the inner stream.
pub(super) struct Reply {
    inner: BoxStream,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Version,
    Length,
    /// So many bytes of addons.
    Addons(u8),
    Done,
}

impl Reply {
    pub(super) fn new(inner: BoxStream) -> Self {
        Self { inner, state: State::Version }
    }
}

impl State {
    /// Reads from the front; returns how many bytes belonged to the response.
    fn read(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match *self {
                Self::Version if *byte != 0 => {
                    let what = format!("unknown version: {byte}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                Self::Version => Self::Length,
                Self::Length if *byte == 0 => Self::Done,
                Self::Length => Self::Addons(*byte),
                Self::Addons(0 | 1) => Self::Done,
                Self::Addons(n) => Self::Addons(n - 1),
                Self::Done => return Ok(at),
            };
        }
        Ok(bytes.len())
    }
}

impl AsyncRead for Reply {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if this.state == State::Done || buf.remaining() == 0 && buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let fresh = &mut buf.filled_mut()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let result = this.state.read(fresh);
            let used = *result.as_ref().unwrap_or(&fresh.len());
            fresh.copy_within(used.., 0);
            let left = fresh.len() - used;
            buf.set_filled(before + left);
            result?;
            if left > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Reply {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl Stream for Reply {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.state == State::Done { self.inner.raw_tcp() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        if self.state == State::Done { self.inner.raw_source() } else { None }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        self.inner.raw_sink()
    }

    fn seal(&mut self) -> Option<&mut dyn Seal> {
        self.inner.seal()
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn read(response: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let (near, mut far) = tokio::io::duplex(piece);
        let response = response.to_vec();
        let writer = tokio::spawn(async move {
            let _ = far.write_all(&response).await;
        });
        let mut got = Vec::new();
        let result = Reply::new(Box::new(near)).read_to_end(&mut got).await;
        writer.await.unwrap();
        result.map(|_| got)
    }

    #[tokio::test]
    async fn the_response_is_taken_away() {
        for piece in [1, 2, 3, 1000] {
            assert_eq!(read(b"\0\0payload", piece).await.unwrap(), b"payload");
            assert_eq!(read(b"\0\x03abcpayload", piece).await.unwrap(), b"payload");
            assert_eq!(read(b"\0\0", piece).await.unwrap(), b"");
            for cut in [&b""[..], b"\0", b"\0\x03ab"] {
                let error = read(cut, piece).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            let error = read(b"HTTP/1.1", piece).await.unwrap_err();
            assert_eq!(error.to_string(), "unknown version: 72");
        }
    }
}
