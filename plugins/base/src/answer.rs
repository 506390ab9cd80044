//! The client's stream between its request and the reply to it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use crosspoint_kernel::error::{DialClass, DialError};
use crosspoint_kernel::flow::{BoxStream, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::host::Target;
use crate::http::wire::{Status, established};
use crate::socks::wire::{Code, reply};

/// In whose words to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SOCKS, version 4 or 5.
    Socks(u8),
    /// CONNECT of HTTP/1.0 or 1.1.
    Connect(u8),
}

/// A short text without an allocation.
#[derive(Clone, Debug)]
pub(crate) struct Short {
    bytes: [u8; 40],
    len: u8,
}

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }
}

impl Short {
    /// The first 40 bytes of `text`: no answer that is kept here is longer.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut short = Self::default();
        short.push(text);
        short
    }

    pub(crate) fn push(&mut self, text: &[u8]) {
        let at = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(at..at + text.len()) {
            room.copy_from_slice(text);
            self.len += text.len() as u8;
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

/// What is written: nearly always short enough to need no allocation.
#[derive(Debug)]
enum Text {
    Short(Short),
    Long(Vec<u8>),
}

#[derive(Debug)]
enum State {
    /// Nobody has answered; `lead` goes in front of the answer.
    Open {
        dialect: Dialect,
        lead: Short,
    },
    Writing {
        text: Text,
        at: usize,
    },
    Done,
}

/// A stream whose client waits for the reply to its request. The reply goes out when the dial has ended, or with
/// success when somebody reads before that: a client that is sniffed has to talk first.
pub(crate) struct Answering {
    inner: BoxStream,
    /// Payload that came with the request.
    prefix: Bytes,
    state: State,
}

impl Answering {
    /// `lead` is what is to be written before the reply; `prefix` what the client sent behind its request.
    pub(crate) fn new(inner: BoxStream, dialect: Dialect, lead: Short, prefix: Bytes) -> Self {
        Self { inner, prefix, state: State::Open { dialect, lead } }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Done) {
            return Poll::Ready(Ok(()));
        }
        let local = self.inner.local_addr();
        self.poll_reply(cx, Ok(local))
    }

    fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        if let State::Open { dialect, lead } = &self.state {
            self.state = State::Writing { text: compose(*dialect, lead, outcome), at: 0 };
        }
        while let State::Writing { text, at } = &mut self.state {
            let bytes = match text {
                Text::Short(short) => short.get(),
                Text::Long(long) => long,
            };
            match bytes.get(*at..) {
                Some(rest) if !rest.is_empty() => {
                    let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
                    if n == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *at += n;
                }
                _ => self.state = State::Done,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn compose(
    dialect: Dialect,
    lead: &Short,
    outcome: Result<Option<SocketAddr>, &DialError>,
) -> Text {
    match (dialect, outcome) {
        (Dialect::Socks(version), outcome) => {
            let (code, bound) = match outcome {
                Ok(local) => (Code::Succeeded, local.map_or(Target::UNSPECIFIED, Target::from)),
                Err(error) => (code_for(error), Target::UNSPECIFIED),
            };
            // At most 22 bytes: an IPv6 address.
            let mut room = [0u8; 24];
            let mut rest = &mut room[..];
            reply(version, code, &bound, &mut rest);
            let len = 24 - rest.len();
            let mut text = lead.clone();
            text.push(room.get(..len).unwrap_or_default());
            Text::Short(text)
        }
        (Dialect::Connect(minor), Ok(_)) => Text::Short(Short::new(established(minor))),
        (Dialect::Connect(_), Err(error)) => {
            let mut text = Vec::new();
            status_for(error).emit(false, &mut text);
            Text::Long(text)
        }
    }
}

/// The SOCKS5 reply for a failed dial.
pub(crate) fn code_for(error: &DialError) -> Code {
    match error.class {
        DialClass::Refused => Code::Refused,
        DialClass::NetworkUnreachable => Code::NetworkUnreachable,
        DialClass::HostUnreachable => Code::HostUnreachable,
        DialClass::Rejected => Code::NotAllowed,
        _ => Code::Failure,
    }
}

/// The HTTP status for a failed dial.
pub(crate) fn status_for(error: &DialError) -> Status {
    match error.class {
        DialClass::Rejected => Status::Forbidden,
        DialClass::TimedOut => Status::Timeout,
        DialClass::Down => Status::Unavailable,
        _ => Status::BadGateway,
    }
}

impl AsyncRead for Answering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx))?;
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(self.prefix.get(..n).unwrap_or_default());
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Answering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
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
        ready!(self.poll_ready(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Stream for Answering {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        let through = matches!(self.state, State::Done) && self.prefix.is_empty();
        if through { self.inner.raw_tcp() } else { None }
    }

    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        let through = matches!(self.state, State::Done) && self.prefix.is_empty();
        if through { self.inner.raw_source() } else { None }
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        let through = matches!(self.state, State::Done);
        if through { self.inner.raw_sink() } else { None }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.poll_reply(cx, outcome)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }
}
