//! A stream after its handshake.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use crosspoint_kernel::flow::{BoxStream, Stream};
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream after its handshake, at the client or at the server. Closing one direction (`close_notify`) leaves the
/// other one open; an end without it is an error of kind [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream(Box<tokio_rustls::TlsStream<BoxStream>>);

impl TlsStream {
    pub(crate) fn new(stream: impl Into<tokio_rustls::TlsStream<BoxStream>>) -> Self {
        Self(Box::new(stream.into()))
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// The name that the client asked for (at the server).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match &*self.0 {
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name(),
            tokio_rustls::TlsStream::Client(_) => None,
        }
    }

    /// Whether TLS 1.3 was agreed on.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        self.0.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Keying material of this connection (RFC 8446 §7.5): fills `out`.
    ///
    /// # Errors
    /// `out` is longer than what can be derived.
    pub fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        let derived = match &*self.0 {
            tokio_rustls::TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(out, label, context)
            }
            tokio_rustls::TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(out, label, context)
            }
        };
        derived.map(drop).map_err(io::Error::other)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

impl Stream for TlsStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.0.get_ref().0.local_addr()
    }
}
