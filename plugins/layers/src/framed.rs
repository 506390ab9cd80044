//! Datagrams in a stream, each behind a header.

use std::{
    io,
    net::SocketAddr,
    ops::Range,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::{
    addr::Target,
    error::DialError,
    flow::{Batch, BoxPacketIo, BoxStream, PacketIo},
};

use tokio::io::AsyncWrite as _;

use crate::input::{Input, Output};

/// One datagram in the bytes of a stream.
pub enum Frame {
    /// This many bytes are needed at least.
    Need(usize),
    /// A datagram.
    Datagram {
        /// Where it goes to or comes from.
        peer: Target,
        /// Where its payload lies.
        payload: Range<usize>,
        /// How many bytes it takes in all.
        used: usize,
    },
    /// This many bytes that are none.
    Skip(usize),
}

/// How datagrams lie in a stream.
pub trait Framing: Send + Unpin + 'static {
    /// Reads the datagram at the front.
    ///
    /// # Errors
    /// The bytes are no datagram; the stream ends.
    fn parse(&mut self, bytes: &[u8]) -> io::Result<Frame>;

    /// Appends a datagram. False: it is too long, and is dropped.
    fn emit(&mut self, peer: &Target, payload: &[u8], out: &mut Vec<u8>) -> bool;
}

/// An association in a stream.
pub struct Framed<F> {
    stream: BoxStream,
    framing: F,
    input: Input,
    output: Output,
}

impl<F: Framing> Framed<F> {
    /// An association; `begin` is what is sent in front of its first datagram.
    pub fn boxed(stream: BoxStream, framing: F, begin: &[u8]) -> BoxPacketIo {
        let mut output = Output::default();
        if !begin.is_empty() {
            output.buffer().extend(begin);
        }
        Box::new(Self { stream, framing, input: Input::default(), output })
    }
}

impl<F: Framing> PacketIo for Framed<F> {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let before = batch.len();
        loop {
            if batch.is_full() {
                return Poll::Ready(Ok(batch.len() - before));
            }
            match self.framing.parse(self.input.bytes())? {
                Frame::Datagram { peer, payload, used } => {
                    batch.push(self.input.bytes().get(payload).unwrap_or_default(), peer);
                    self.input.consume(used);
                }
                Frame::Skip(used) => self.input.consume(used),
                Frame::Need(_) if batch.len() > before => {
                    return Poll::Ready(Ok(batch.len() - before));
                }
                Frame::Need(need) => {
                    if ready!(self.input.poll_receive(cx, &mut self.stream, need))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        // At most one batch is gathered: there is no further one before this one has gone.
        for index in 0..batch.len() {
            self.framing.emit(batch.peer(index), batch.payload(index), self.output.buffer());
        }
        batch.clear();
        ready!(self.output.poll_drain(cx, &mut self.stream))?;
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.stream.poll_answer(cx, outcome)
    }
}
