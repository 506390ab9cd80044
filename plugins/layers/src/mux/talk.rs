//! Streams with sing-mux's own words at their start: a request, sent with the first bytes, and an answer to it, which comes
//! with the first bytes of the other direction (sing-mux, client_conn.go and server_conn.go).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crosspoint_kernel::{
    error::DialError,
    flow::{BoxStream, Stream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::wire::{HeadError, StreamResponse};
use crate::input::Output;

/// How long a client waits for payload to send with its request.
const ALONE_AFTER: Duration = Duration::from_millis(50);

/// Most payload that is copied behind a request or an answer.
const FIRST: usize = 16 * 1024;

/// A stream that begins with bytes of ours.
struct Headed {
    inner: BoxStream,
    head: Option<Vec<u8>>,
    output: Output,
}

impl Headed {
    fn new(inner: BoxStream, head: Vec<u8>) -> Self {
        Self { inner, head: Some(head), output: Output::default() }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_drain(cx, &mut self.inner)
    }

    /// Puts the head, and `data` behind it, into what is to be sent.
    fn begin(&mut self, data: &[u8]) {
        if let Some(head) = self.head.take() {
            let out = self.output.buffer();
            out.extend(head);
            out.extend(data);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        if self.head.is_none() {
            return Pin::new(&mut self.inner).poll_write(cx, data);
        }
        let data = &data[..data.len().min(FIRST)];
        self.begin(data);
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is not taken now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.begin(&[]);
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The client's end.
pub(super) struct ClientStream {
    headed: Headed,
    /// Until when the request waits for payload.
    timer: Option<Pin<Box<Sleep>>>,
    /// What was read of the answer, as long as it is not all there.
    answer: Option<Vec<u8>>,
}

impl ClientStream {
    pub(super) fn new(inner: BoxStream, request: Vec<u8>) -> Self {
        Self { headed: Headed::new(inner, request), timer: None, answer: Some(Vec::new()) }
    }

    /// Who waits for an answer has to ask.
    fn poll_alone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.headed.head.is_some() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(ALONE_AFTER)));
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.headed.begin(&[]);
        }
        self.timer = None;
        match self.headed.poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.headed.head.is_some() || !this.headed.output.is_empty() {
            this.poll_alone(cx)?;
        }
        let Some(answer) = &mut this.answer else {
            return Pin::new(&mut this.headed.inner).poll_read(cx, buf);
        };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.headed.inner).poll_read(cx, buf))?;
            let bytes = &mut buf.filled_mut()[before..];
            if bytes.is_empty() {
                let text = "stream ended before its answer";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            if answer.is_empty() && bytes[0] != 1 {
                // Nearly always: the answer, and payload right behind it.
                let len = bytes.len() - 1;
                bytes.copy_within(1.., 0);
                buf.set_filled(before + len);
                this.answer = None;
                if len > 0 {
                    return Poll::Ready(Ok(()));
                }
                return Pin::new(&mut this.headed.inner).poll_read(cx, buf);
            }
            answer.extend_from_slice(bytes);
            buf.set_filled(before);
            match StreamResponse::parse(answer) {
                Err(HeadError::Incomplete(_)) => {}
                Err(error) => return Poll::Ready(Err(io::Error::other(error))),
                Ok((StreamResponse::Failure(text), _)) => {
                    return Poll::Ready(Err(io::Error::other(format!("remote error: {text}"))));
                }
                // It begins with 1.
                Ok((StreamResponse::Success, _)) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.timer = None;
        this.headed.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().headed.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().headed.poll_shutdown(cx)
    }
}

impl Stream for ClientStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.headed.inner.local_addr()
    }
}

/// The server's end, after the request.
pub(super) struct ServerStream(Headed);

impl ServerStream {
    pub(super) fn new(inner: BoxStream) -> Self {
        Self(Headed::new(inner, vec![0]))
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_shutdown(cx)
    }
}

impl Stream for ServerStream {
    /// Success is said with the first bytes, as in the reference.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        let Err(error) = outcome else { return Poll::Ready(Ok(())) };
        if let Some(head) = &mut self.0.head {
            head.clear();
            StreamResponse::Failure(error.to_string()).emit(head);
            self.0.begin(&[]);
        }
        self.0.poll_flush(cx)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.0.inner.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_goes_with_the_first_bytes_and_the_answer_is_taken_off() {
        let (near, far) = duplex(1000);
        let mut client = ClientStream::new(Box::new(near), b"ask ".to_vec());
        let mut server = ServerStream::new(Box::new(far));
        client.write_all(b"body").await.unwrap();
        let mut bytes = [0; 8];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ask body");
        server.write_all(b"reply").await.unwrap();
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"reply");
        // Nothing said, and still the answer comes before the end.
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_listens_asks_all_the_same_and_hears_why_not() {
        let (near, far) = duplex(1000);
        let mut client = ClientStream::new(Box::new(near), b"ask".to_vec());
        let mut server = ServerStream::new(Box::new(far));
        let heard = tokio::spawn(async move { client.read(&mut [0; 9]).await });
        let mut bytes = [0; 3];
        server.read_exact(&mut bytes).await.unwrap();
        let error = DialError::unsupported("not here");
        std::future::poll_fn(|cx| server.poll_answer(cx, Err(&error))).await.unwrap();
        let heard = heard.await.unwrap().unwrap_err();
        assert_eq!(heard.to_string(), "remote error: not here");
    }
}
