//! The client's stream without TLS: the request of HTTP/1.1 goes out with the first bytes, and the bytes of the server
//! follow the head of its response.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use crosspoint_kernel::{
    DialError,
    flow::{BoxStream, Stream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::transport::head::parse::{self, MAX_HEAD, Response};

/// Most bytes that go out with the head of the request.
const FIRST: usize = 16 << 10;

/// Bytes that are read at a time while the head of the response is not whole.
const READ: usize = 2 << 10;

/// What is still to be sent before the bytes of the protocol.
enum Front {
    /// The head of the request; nothing was written yet.
    Head(Bytes),
    /// Head and first bytes, which were taken from the writer already.
    Sending(Bytes),
    /// Nothing.
    Sent,
}

/// What is still to be read.
enum Back {
    /// The head of the response, with what of it has come.
    Head(BytesMut),
    /// Bytes that came with the head, or none; then the stream itself.
    Open(Bytes),
}

/// A stream behind the heads of a request and a response.
pub(super) struct PlainStream {
    inner: BoxStream,
    front: Front,
    back: Back,
}

impl PlainStream {
    pub(super) fn new(inner: BoxStream, request: Bytes) -> Self {
        Self { inner, front: Front::Head(request), back: Back::Head(BytesMut::new()) }
    }

    /// Sends what is in front, at least the head.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Front::Head(head) = &mut self.front {
            self.front = Front::Sending(std::mem::take(head));
        }
        while let Front::Sending(rest) = &mut self.front {
            if rest.is_empty() {
                self.front = Front::Sent;
                break;
            }
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => rest.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the first bytes of the writer into one piece with the head.
    fn begin(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
        let Front::Head(head) = &self.front else { return None };
        let mut whole = BytesMut::with_capacity(head.len() + FIRST.min(2 << 10));
        whole.extend_from_slice(head);
        let mut taken = 0;
        for buf in bufs {
            let n = buf.len().min(FIRST - taken);
            whole.extend_from_slice(&buf[..n]);
            taken += n;
        }
        self.front = Front::Sending(whole.freeze());
        match self.poll_front(cx) {
            Poll::Ready(Err(error)) => Some(Err(error)),
            // What remains goes out before anything else that is done with this stream.
            _ => Some(Ok(taken)),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Back::Head(read) = &mut self.back {
            match parse::end(read, 0) {
                Some(end) => {
                    let head = read.split_to(end);
                    match Response::parse(&head).map_err(broken)?.status {
                        200 => self.back = Back::Open(std::mem::take(read).freeze()),
                        status => {
                            let why = format!("the server answered with status {status}");
                            return Poll::Ready(Err(io::Error::other(why)));
                        }
                    }
                }
                None if read.len() > MAX_HEAD => {
                    let why = "the server's answer is too long";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                None => {
                    let mut room = [std::mem::MaybeUninit::uninit(); READ];
                    let mut buf = ReadBuf::uninit(&mut room);
                    ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
                    if buf.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    read.extend_from_slice(buf.filled());
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: parse::Reject) -> io::Error {
    DialError::protocol(format_args!("answer of the server: {error}")).into()
}

impl AsyncRead for PlainStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The head alone does not go out for the sake of a read: the reference's server, if it gets the bytes of the protocol
        // behind it, may see the first of them alone and take that for all there is. Every protocol writes first.
        if matches!(this.front, Front::Sending(_))
            && let Poll::Ready(Err(error)) = this.poll_front(cx)
        {
            return Poll::Ready(Err(error));
        }
        ready!(this.poll_head(cx))?;
        if let Back::Open(rest) = &mut this.back
            && !rest.is_empty()
        {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            rest.advance(n);
            if rest.is_empty() {
                *rest = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(taken) = this.begin(cx, &[IoSlice::new(buf)]) {
            return Poll::Ready(taken);
        }
        ready!(this.poll_front(cx))?;
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(taken) = this.begin(cx, bufs) {
            return Poll::Ready(taken);
        }
        ready!(this.poll_front(cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A head alone waits for the bytes that go with it.
        if matches!(this.front, Front::Sending(_)) {
            ready!(this.poll_front(cx))?;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_front(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Stream for PlainStream {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        match (&self.front, &self.back) {
            (Front::Sent, Back::Open(rest)) if rest.is_empty() => self.inner.raw_tcp(),
            _ => None,
        }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }
}
