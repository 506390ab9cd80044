//! What plugins put around the bytes of a stream, and a stream with it.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::flow::{BoxStream, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::input::{Input, Output};

/// Most payload that is wrapped at once.
const MOST: usize = 64 * 1024;

/// What the bytes at the front are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This many bytes are needed at least to tell.
    Need(usize),
    /// This many bytes belong to the wrapping.
    Skip(usize),
    /// This many bytes are payload. The codec counts them as taken.
    Payload(usize),
    /// The other side sends no more.
    End,
}

/// A wrapping, without I/O.
pub trait Codec: Send + Unpin + 'static {
    /// Appends wrapped payload.
    fn wrap(&mut self, payload: &[u8], out: &mut Vec<u8>);

    /// Looks at the bytes at the front. Every answer but [`Step::Need`] and [`Step::End`] covers at least one byte.
    ///
    /// # Errors
    /// The other side does not speak this.
    fn unwrap(&mut self, bytes: &[u8]) -> Result<Step, CodecError>;

    /// Whether what is written from now on needs no wrapping.
    fn writes_plain(&self) -> bool {
        false
    }

    /// Whether what is read from now on has none.
    fn reads_plain(&self) -> bool {
        false
    }

    /// Whether the end of one direction can be told.
    fn half_closes(&self) -> bool {
        true
    }
}

/// The other side speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin: {0}")]
pub struct CodecError(pub &'static str);

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A stream with a wrapping.
pub(super) struct Wrapped<C> {
    inner: BoxStream,
    codec: C,
    input: Input,
    /// Payload at the front of the input.
    payload: usize,
    output: Output,
}

impl<C: Codec> Wrapped<C> {
    pub(super) fn boxed(inner: BoxStream, codec: C) -> BoxStream {
        let (input, output) = Default::default();
        Box::new(Self { inner, codec, input, payload: 0, output })
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_drain(cx, &mut self.inner)
    }
}

impl<C: Codec> AsyncRead for Wrapped<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What the socket did not take must not wait for the next write.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if this.payload > 0 {
                let len = this.payload.min(out.remaining());
                out.put_slice(&this.input.bytes()[..len]);
                this.input.consume(len);
                this.payload -= len;
                return Poll::Ready(Ok(()));
            }
            if this.codec.reads_plain() {
                if this.input.is_empty() {
                    return Pin::new(&mut this.inner).poll_read(cx, out);
                }
                this.payload = this.input.bytes().len();
                continue;
            }
            match this.codec.unwrap(this.input.bytes())? {
                Step::Payload(len) => this.payload = len,
                Step::Skip(len) => this.input.consume(len),
                Step::End => return Poll::Ready(Ok(())),
                Step::Need(need) => {
                    if ready!(this.input.poll_receive(cx, &mut this.inner, need))? == 0 {
                        return Poll::Ready(match this.input.is_empty() {
                            true => Ok(()),
                            false => Err(io::ErrorKind::UnexpectedEof.into()),
                        });
                    }
                }
            }
        }
    }
}

impl<C: Codec> AsyncWrite for Wrapped<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.codec.writes_plain() {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        let data = &data[..data.len().min(MOST)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.codec.wrap(data, this.output.buffer());
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.codec.half_closes() {
            Pin::new(&mut this.inner).poll_shutdown(cx)
        } else {
            Pin::new(&mut this.inner).poll_flush(cx)
        }
    }
}

impl<C: Codec> Stream for Wrapped<C> {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}
