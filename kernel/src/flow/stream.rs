//! Byte streams.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
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

    /// As [`Self::raw_tcp`], for reading alone. The relay asks before it waits for more bytes, so a stream may become
    /// raw in the middle of a connection, one direction before the other; it must not cease to be.
    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        self.raw_tcp()
    }

    /// As [`Self::raw_tcp`], for writing alone.
    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        self.raw_tcp()
    }

    /// The encryption of this stream, if its two ends can agree to leave it.
    fn seal(&mut self) -> Option<&mut dyn Seal> {
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

    /// The TCP socket below, for its options, where the stream has one of its own. Not to be read or written.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A layer of encryption that is left in the middle of a connection, because what it carries is encrypted by itself from
/// there on (XTLS Vision). It reads one record at a time, so that bytes behind the last record stay as they are, until
/// either [`Self::open_source`] or [`Self::keep_source`] is called.
pub trait Seal {
    /// What was decrypted but not read yet is still read; then come the bytes of the stream below.
    fn open_source(&mut self);

    /// No bytes of the stream below will be read: records may be read ahead.
    fn keep_source(&mut self);

    /// Sends what was written so far; from then on bytes are written as they are. Polled until ready.
    ///
    /// # Errors
    /// Those of the stream below.
    fn poll_open_sink(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
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

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Stream for tokio::io::DuplexStream {}

impl Stream for BoxStream {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        (**self).raw_tcp()
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        (**self).raw_source()
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        (**self).raw_sink()
    }

    fn seal(&mut self) -> Option<&mut dyn Seal> {
        (**self).seal()
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

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        (**self).socket()
    }
}
