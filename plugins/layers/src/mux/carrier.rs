//! The connection under a session: its request goes in front, its first frames are padded (sing-mux, padding.go), and many
//! small pieces are written as one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use aws_lc_rs::rand;
use crosspoint_kernel::flow::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::{PADDING, PADDING_END, Request};
use crate::input::Output;

/// So many writes and reads of a padded session are padded.
const PADDED: u8 = 16;

/// Most bytes that are gathered in one write.
const GATHERED: usize = 60 * 1024;

/// A number of padding bytes.
fn padding() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the padding has its shortest length; its content is of no interest.
    let _ = rand::fill(&mut bytes);
    PADDING + u16::from_be_bytes(bytes) % (PADDING_END - PADDING)
}

/// What has been read of the other side's padding.
#[derive(Debug, Default)]
struct Unpad {
    /// Frames that are still padded.
    frames: u8,
    header: [u8; 4],
    have: u8,
    /// Payload of the frame that has not been read yet.
    payload: usize,
    /// Padding behind it.
    padding: usize,
}

/// The connection under a session.
pub(super) struct Carrier {
    inner: BoxStream,
    output: Output,
    /// Goes out in front of the first write.
    request: Option<Request>,
    /// Writes that are still padded.
    padded: u8,
    unpad: Unpad,
}

impl Carrier {
    /// The client's end.
    pub(super) fn client(inner: BoxStream, request: Request) -> Self {
        Self { request: Some(request), ..Self::server(inner, request.padding) }
    }

    /// The server's end, after the request and its padding.
    pub(super) fn server(inner: BoxStream, padded: bool) -> Self {
        let frames = if padded { PADDED } else { 0 };
        let unpad = Unpad { frames, ..Unpad::default() };
        Self { inner, output: Output::default(), request: None, padded: frames, unpad }
    }

    /// Whether bytes go out as they are.
    fn is_plain(&self) -> bool {
        self.padded == 0 && self.request.is_none()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_drain(cx, &mut self.inner)
    }

    /// Puts pieces of `len` bytes, at most 65,535, into one write.
    fn gather<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, len: usize) {
        let out = self.output.buffer();
        if let Some(request) = self.request.take() {
            request.emit(padding(), out);
        }
        let padded = self.padded > 0;
        let fill = usize::from(if padded { padding() } else { 0 });
        if padded {
            self.padded -= 1;
            out.extend((len as u16).to_be_bytes());
            out.extend((fill as u16).to_be_bytes());
        }
        let mut left = len;
        for piece in pieces {
            let n = piece.len().min(left);
            out.extend_from_slice(&piece[..n]);
            left -= n;
        }
        out.resize(out.len() + fill, 0);
    }

    /// Sends what was gathered, as far as it goes now; the rest goes with the next call.
    fn begin(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(len)),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, unpad, .. } = self.get_mut();
        loop {
            if unpad.payload > 0 {
                let most = unpad.payload.min(buf.remaining());
                let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(Pin::new(&mut *inner).poll_read(cx, &mut part))?;
                let n = part.filled().len();
                if n == 0 && most > 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                buf.advance(n);
                unpad.payload -= n;
                return Poll::Ready(Ok(()));
            }
            if unpad.padding > 0 {
                let mut scratch = [0; 512];
                let most = scratch.len().min(unpad.padding);
                let mut part = ReadBuf::new(&mut scratch[..most]);
                ready!(Pin::new(&mut *inner).poll_read(cx, &mut part))?;
                match part.filled().len() {
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    n => unpad.padding -= n,
                }
                continue;
            }
            if unpad.frames == 0 {
                return Pin::new(&mut *inner).poll_read(cx, buf);
            }
            let have = usize::from(unpad.have);
            let mut part = ReadBuf::new(&mut unpad.header[have..]);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut part))?;
            match part.filled().len() {
                0 if have == 0 => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                n => unpad.have += n as u8,
            }
            if unpad.have == 4 {
                let [a, b, c, d] = unpad.header;
                unpad.have = 0;
                unpad.frames -= 1;
                unpad.payload = u16::from_be_bytes([a, b]).into();
                unpad.padding = u16::from_be_bytes([c, d]).into();
            }
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.is_plain() {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        let len = data.len().min(GATHERED);
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        this.gather(std::iter::once(data), len);
        this.begin(cx, len)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.is_plain() && this.inner.is_write_vectored() {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        let len = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(GATHERED);
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        this.gather(bufs.iter().map(|buf| &**buf), len);
        this.begin(cx, len)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::mux::wire::Protocol;

    #[tokio::test]
    async fn the_first_writes_are_padded_and_the_others_are_not() {
        let (near, far) = duplex(1 << 20);
        let request = Request { protocol: Protocol::Smux, padding: true };
        let mut client = Carrier::client(Box::new(near), request);
        let mut far: BoxStream = Box::new(far);
        for n in 0..20u8 {
            client.write_all(&[n; 100]).await.unwrap();
            client.flush().await.unwrap();
        }
        let mut head = [0; 5];
        far.read_exact(&mut head).await.unwrap();
        assert_eq!(head[..3], [1, 0, 1]);
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        assert!((256..768).contains(&len));
        let mut padding = vec![0; len];
        far.read_exact(&mut padding).await.unwrap();
        let mut server = Carrier::server(far, true);
        for n in 0..20u8 {
            let mut bytes = [0; 100];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, [n; 100]);
            server.write_all(&bytes[..50]).await.unwrap();
            // What a write could not send at once goes with the flush.
            server.flush().await.unwrap();
            let mut bytes = [0; 50];
            client.read_exact(&mut bytes).await.unwrap();
        }
        drop(client);
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_frame_that_breaks_off_is_an_error() {
        let (near, far) = duplex(1000);
        let mut server = Carrier::server(Box::new(far), true);
        let mut near = near;
        near.write_all(&[0, 9, 1, 0, b'x']).await.unwrap();
        drop(near);
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 1);
        assert!(server.read(&mut [0; 9]).await.is_err());
    }
}
