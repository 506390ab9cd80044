//! A stream after its handshake.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::flow::{BoxStream, Seal, Stream};
use rustls::ProtocolVersion;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::below::Below;

type Inner = tokio_rustls::TlsStream<Below>;

/// A stream after its handshake, at the client or at the server. Closing one direction (`close_notify`) leaves the
/// other one open; an end without it is an error of kind [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream(State);

enum State {
    /// In force, in one direction at least.
    Tls(Box<Tls>),
    /// Both directions were left: the stream below is all that remains.
    Bare(BoxStream),
    /// Between the two.
    Gone,
}

struct Tls {
    stream: Inner,
    source: Source,
    /// Writing has left TLS.
    open_sink: bool,
    /// Made to be left.
    leavable: bool,
}

/// Where the bytes come from that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// TLS.
    Sealed,
    /// TLS, one record at a time, because it may be left.
    Records,
    /// What was decrypted and not read yet, then what was received behind it.
    Rest,
    /// The stream below.
    Open,
}

impl TlsStream {
    pub(crate) fn new(stream: impl Into<Inner>) -> Self {
        let mut stream = stream.into();
        let leavable = stream.get_mut().0.stop();
        let source = if leavable { Source::Records } else { Source::Sealed };
        Self(State::Tls(Box::new(Tls { stream, source, open_sink: false, leavable })))
    }

    fn tls(&self) -> Option<&Inner> {
        match &self.0 {
            State::Tls(tls) => Some(&tls.stream),
            State::Bare(_) | State::Gone => None,
        }
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls()?.get_ref().1.alpn_protocol()
    }

    /// The name that the client asked for (at the server).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match self.tls()? {
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name(),
            tokio_rustls::TlsStream::Client(_) => None,
        }
    }

    /// Whether TLS 1.3 was agreed on.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        let version = self.tls().and_then(|tls| tls.get_ref().1.protocol_version());
        version == Some(ProtocolVersion::TLSv1_3)
    }

    /// Keying material of this connection (RFC 8446 §7.5): fills `out`.
    ///
    /// # Errors
    /// `out` is longer than what can be derived, or TLS was left.
    pub fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        let derived = match self.tls() {
            Some(tokio_rustls::TlsStream::Client(stream)) => {
                stream.get_ref().1.export_keying_material(out, label, context)
            }
            Some(tokio_rustls::TlsStream::Server(stream)) => {
                stream.get_ref().1.export_keying_material(out, label, context)
            }
            None => return Err(io::ErrorKind::NotConnected.into()),
        };
        derived.map(drop).map_err(io::Error::other)
    }

    /// When both directions have been left, TLS takes its memory with it.
    fn settle(&mut self) {
        let left = match &self.0 {
            State::Tls(tls) => tls.source == Source::Open && tls.open_sink,
            State::Bare(_) | State::Gone => false,
        };
        if left && let State::Tls(tls) = std::mem::replace(&mut self.0, State::Gone) {
            let below = match tls.stream {
                tokio_rustls::TlsStream::Client(stream) => stream.into_inner().0,
                tokio_rustls::TlsStream::Server(stream) => stream.into_inner().0,
            };
            self.0 = State::Bare(below.inner);
        }
    }

    /// What is written to.
    fn sink(&mut self) -> io::Result<Pin<&mut dyn Sink>> {
        match &mut self.0 {
            State::Tls(tls) => Ok(if tls.open_sink {
                Pin::new(&mut tls.stream.get_mut().0.inner)
            } else {
                Pin::new(&mut tls.stream)
            }),
            State::Bare(stream) => Ok(Pin::new(stream)),
            State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

trait Sink: AsyncWrite + Unpin {}
impl<T: AsyncWrite + Unpin> Sink for T {}

impl Tls {
    /// Reads what one more record brings.
    fn poll_record(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.get_mut().0.starved();
        loop {
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            // Only when nothing that was decrypted is left may the next record go: what is behind the last one of
            // interest must not be taken for one.
            let below = self.stream.get_mut().0;
            if polled.is_ready() || !below.starved() {
                return polled;
            }
            below.go();
        }
    }

    /// Reads what is left of TLS. Ready without a byte when there is nothing.
    fn poll_rest(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.stream.get_mut().0.starved();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let below = self.stream.get_mut().0;
        match polled {
            Poll::Pending if !below.starved() => return Poll::Pending,
            Poll::Ready(Ok(())) if buf.filled().len() > before => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
        below.take_held(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tls = match &mut self.0 {
            State::Tls(tls) => tls,
            State::Bare(stream) => return Pin::new(stream).poll_read(cx, buf),
            State::Gone => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        match tls.source {
            Source::Sealed => Pin::new(&mut tls.stream).poll_read(cx, buf),
            Source::Records => tls.poll_record(cx, buf),
            Source::Rest if buf.remaining() == 0 => Poll::Ready(Ok(())),
            Source::Rest => {
                let before = buf.filled().len();
                ready!(tls.poll_rest(cx, buf))?;
                if buf.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
                tls.source = Source::Open;
                self.settle();
                self.poll_read(cx, buf)
            }
            Source::Open => Pin::new(&mut tls.stream.get_mut().0.inner).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sink()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sink()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            State::Tls(tls) if tls.open_sink => tls.stream.get_ref().0.inner.is_write_vectored(),
            State::Tls(tls) => tls.stream.is_write_vectored(),
            State::Bare(stream) => stream.is_write_vectored(),
            State::Gone => false,
        }
    }
}

impl Stream for TlsStream {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        match &mut self.0 {
            State::Bare(stream) => stream.raw_tcp(),
            State::Tls(_) | State::Gone => None,
        }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        match &mut self.0 {
            State::Tls(tls) if tls.source == Source::Open => {
                tls.stream.get_mut().0.inner.raw_source()
            }
            State::Bare(stream) => stream.raw_source(),
            State::Tls(_) | State::Gone => None,
        }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        match &mut self.0 {
            State::Tls(tls) if tls.open_sink => tls.stream.get_mut().0.inner.raw_sink(),
            State::Bare(stream) => stream.raw_sink(),
            State::Tls(_) | State::Gone => None,
        }
    }

    fn seal(&mut self) -> Option<&mut dyn Seal> {
        match &self.0 {
            State::Tls(tls) if tls.leavable => Some(self),
            State::Tls(_) | State::Bare(_) | State::Gone => None,
        }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            State::Tls(tls) => tls.stream.get_ref().0.inner.local_addr(),
            State::Bare(stream) => stream.local_addr(),
            State::Gone => None,
        }
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            State::Tls(tls) => tls.stream.get_ref().0.inner.socket(),
            State::Bare(stream) => stream.socket(),
            State::Gone => None,
        }
    }
}

impl Seal for TlsStream {
    fn open_source(&mut self) {
        if let State::Tls(tls) = &mut self.0
            && tls.source == Source::Records
        {
            tls.source = Source::Rest;
        }
    }

    fn keep_source(&mut self) {
        if let State::Tls(tls) = &mut self.0
            && tls.source == Source::Records
        {
            tls.source = Source::Sealed;
            tls.stream.get_mut().0.through();
        }
    }

    fn poll_open_sink(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Tls(tls) = &mut self.0
            && !tls.open_sink
        {
            ready!(Pin::new(&mut tls.stream).poll_flush(cx))?;
            tls.open_sink = true;
            self.settle();
        }
        Poll::Ready(Ok(()))
    }
}
