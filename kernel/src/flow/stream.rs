//! Byte streams.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::error::DialError;

/// A byte stream between us and a client, or between us and a server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The kernel socket, if reading and writing this stream is reading and writing that socket:
    /// nothing is buffered in front of it and nothing remains to be written. `Some` lets the relay
    /// splice. A wrapper that has become transparent returns `Some` again.
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        None
    }

    /// Tells the client that its request succeeded (with the local address of the outgoing socket,
    /// where known) or failed. Called once before the relay by whoever dialled; a stream whose
    /// protocol has a reply writes it here, and must write the success reply by itself when
    /// it is read before (a sniffer wants the client to talk first). Polled until ready.
    fn poll_answer(
        &mut self,
        _cx: &mut Context<'_>,
        _outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Local address of the socket below, where there is one.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}

/// A stream behind one pointer.
pub type BoxStream = Box<dyn Stream>;

impl Stream for TcpStream {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        Some(self)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        TcpStream::local_addr(self).ok()
    }
}

impl Stream for tokio::io::DuplexStream {}

impl Stream for BoxStream {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        (**self).raw_tcp()
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        (**self).poll_answer(cx, outcome)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        (**self).local_addr()
    }
}
