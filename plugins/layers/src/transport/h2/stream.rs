//! One request and its response as a byte stream.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use crosspoint_kernel::flow::Stream;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{CHUNK, broken, shared::Seat};
use crate::transport::grpc::{gun, status};

/// What lies between the bytes of the protocol and those of DATA frames.
pub(in crate::transport) enum Wire {
    /// Nothing.
    Plain,
    /// Messages of the gRPC service `GunService`.
    Gun(gun::Reader),
}

/// What is received.
enum Receive {
    /// The server has not answered yet. It may wait for our bytes with that.
    Answer(ResponseFuture),
    /// The body.
    Body(RecvStream),
    /// All was read.
    Ended,
    /// Nothing more can be read; why, until it was told.
    Failed(Option<io::Error>),
}

/// One request and its response as a byte stream. The end of one direction leaves the other one open; dropped before both
/// have ended, it resets the stream (a server that has said nothing yet: ends it).
pub(in crate::transport) struct H2Stream {
    send: SendStream<Bytes>,
    receive: Receive,
    /// A part of a frame that was not read yet.
    rest: Bytes,
    /// Length of that frame; its capacity is given back when all of it was read.
    frame: usize,
    wire: Wire,
    /// Our direction has ended.
    closed: bool,
    /// Something was sent.
    spoken: bool,
    server: bool,
    seat: Seat,
}

impl H2Stream {
    /// The stream of a request that was sent.
    pub(in crate::transport) fn client(
        send: SendStream<Bytes>,
        answer: ResponseFuture,
        wire: Wire,
        seat: Seat,
    ) -> Self {
        Self::new(send, Receive::Answer(answer), wire, false, seat)
    }

    /// The stream of a request that was answered.
    pub(in crate::transport) fn server(
        send: SendStream<Bytes>,
        body: RecvStream,
        wire: Wire,
        seat: Seat,
    ) -> Self {
        Self::new(send, Receive::Body(body), wire, true, seat)
    }

    fn new(
        send: SendStream<Bytes>,
        receive: Receive,
        wire: Wire,
        server: bool,
        seat: Seat,
    ) -> Self {
        Self {
            send,
            receive,
            rest: Bytes::new(),
            frame: 0,
            wire,
            closed: false,
            spoken: false,
            server,
            seat,
        }
    }

    /// Moves what of `rest` fits into `buf`.
    fn drain(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), gun::GunError> {
        while !self.rest.is_empty() && buf.remaining() > 0 {
            let ready = match &mut self.wire {
                Wire::Plain => self.rest.len(),
                Wire::Gun(reader) => {
                    let step = reader.step(&self.rest)?;
                    self.rest.advance(step.framing);
                    step.payload
                }
            };
            let n = ready.min(buf.remaining());
            buf.put_slice(&self.rest[..n]);
            self.rest.advance(n);
            if let Wire::Gun(reader) = &mut self.wire {
                reader.taken(n);
            }
        }
        if self.rest.is_empty() && self.frame > 0 {
            self.rest = Bytes::new();
            self.seat.consume(self.frame);
            if let Receive::Body(body) = &mut self.receive {
                // Fails only if more is given back than was taken.
                let _ = body.flow_control().release_capacity(self.frame);
            }
            self.frame = 0;
        }
        Ok(())
    }

    /// Waits for the next frame; `false` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.receive {
                Receive::Answer(answer) => {
                    let (head, body) = ready!(Pin::new(answer).poll(cx))
                        .map_err(|error| broken(&error))?
                        .into_parts();
                    if head.status != StatusCode::OK {
                        return Poll::Ready(Err(refused(head.status)));
                    }
                    if matches!(self.wire, Wire::Gun(_)) {
                        // A call that fails at once has its end in the head.
                        status::check(&head.headers)?;
                    }
                    self.receive = Receive::Body(body);
                }
                Receive::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => {
                        if data.is_empty() {
                            continue;
                        }
                        self.frame = data.len();
                        self.rest = data;
                        return Poll::Ready(Ok(true));
                    }
                    Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                    None => {
                        if let Wire::Gun(reader) = &self.wire {
                            let trailers =
                                ready!(body.poll_trailers(cx)).map_err(|error| broken(&error))?;
                            if let (Some(trailers), false) = (trailers, self.server) {
                                status::check(&trailers)?;
                            }
                            if !reader.is_between() {
                                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                            }
                        }
                        self.receive = Receive::Ended;
                    }
                },
                Receive::Ended => return Poll::Ready(Ok(false)),
                Receive::Failed(why) => {
                    let why = why.take().unwrap_or(io::ErrorKind::ConnectionReset.into());
                    return Poll::Ready(Err(why));
                }
            }
        }
    }

    /// Sends what `bufs` hold, `total` bytes, as far as the windows allow.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        total: usize,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if total == 0 {
            // An empty message is the end for some peers.
            return Poll::Ready(Ok(0));
        }
        let wanted = total.min(CHUNK);
        let overhead = match self.wire {
            Wire::Plain => 0,
            Wire::Gun(_) => gun::head_len(wanted),
        };
        self.send.reserve_capacity(wanted + overhead);
        let mut room = self.send.capacity();
        if room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            };
        }
        // A window may be too small for the head of a message: what exceeds it waits inside of `h2`, a few bytes.
        let n = wanted.min(room.saturating_sub(overhead).max(1));
        let mut frame = BytesMut::with_capacity(n + overhead);
        if let Wire::Gun(_) = self.wire {
            gun::put_head(n, &mut frame);
        }
        let mut left = n;
        for part in bufs {
            let take = part.len().min(left);
            frame.put_slice(&part[..take]);
            left -= take;
        }
        match self.send.send_data(frame.freeze(), false) {
            Ok(()) => {
                self.spoken = true;
                Poll::Ready(Ok(n))
            }
            Err(error) => Poll::Ready(Err(match self.send.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => broken(&reason.into()),
                _ => broken(&error),
            })),
        }
    }

    /// Ends our direction.
    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            // A peer that has reset the stream needs no end of it.
            let _ = match self.wire {
                Wire::Gun(_) if self.server => {
                    let ok = HeaderValue::from_static("0");
                    self.send.send_trailers(HeaderMap::from_iter([(status::NAME, ok)]))
                }
                _ => self.send.send_data(Bytes::new(), true),
            };
        }
    }

    /// Why nothing can be sent any more.
    fn why_closed(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => broken(&reason.into()),
            Poll::Ready(Err(error)) => broken(&error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

fn refused(status: StatusCode) -> io::Error {
    io::Error::other(format!("the server answered with status {status}"))
}

impl AsyncRead for H2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            let drained = this.drain(buf);
            if drained.is_ok() && buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // One read takes as many frames as are there.
            let some = buf.filled().len() > before;
            let next = match drained {
                Ok(()) => this.poll_frame(cx),
                Err(error) => Poll::Ready(Err(error.into())),
            };
            match next {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    this.rest = Bytes::new();
                    // What came before it is told first.
                    let (told, kept) =
                        if some { (Ok(()), Some(error)) } else { (Err(error), None) };
                    this.receive = Receive::Failed(kept);
                    return Poll::Ready(told);
                }
                Poll::Pending if some => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, buf.len(), &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = bufs.iter().map(|buf| buf.len()).sum();
        self.get_mut().poll_send(cx, total, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection sends what was taken.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        // A stranger to whom nothing was said is not reset: the handler of the reference returns, which is an empty response.
        if self.server && !self.spoken {
            self.close();
        }
    }
}

impl Stream for H2Stream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.seat.local()
    }
}
