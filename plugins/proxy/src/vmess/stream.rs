//! A stream in a connection of VMess.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::{error::DialError, flow::Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::link::{Broken, Link, Step};

/// Most payload that is sealed at once.
const SEAL: usize = 64 * 1024;

/// See the module.
pub(super) struct Vmess(pub(super) Link);

impl AsyncRead for Vmess {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = &mut self.get_mut().0;
        link.poll_alone(cx)?;
        if link.reads_raw() {
            return Pin::new(&mut link.inner).poll_read(cx, out);
        }
        let before = out.filled().len();
        loop {
            if !link.held().is_empty() {
                let len = link.held().len().min(out.remaining());
                out.put_slice(&link.held()[..len]);
                link.consume(len);
            }
            if out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match link.step(out.initialize_unfilled())? {
                Step::Again => {}
                // An empty chunk is the end of a stream.
                Step::Direct(0) => link.end_reading(),
                Step::Direct(len) => out.advance(len),
                Step::Held if link.held().is_empty() => {
                    link.consume(0);
                    link.end_reading();
                }
                Step::Held => {}
                Step::End => return Poll::Ready(Ok(())),
                Step::Need(_) if out.filled().len() > before => return Poll::Ready(Ok(())),
                Step::Need(need) => {
                    if ready!(link.poll_receive(cx, need))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Vmess {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let link = &mut self.get_mut().0;
        ready!(link.poll_drain(cx))?;
        if link.writes_raw() {
            return Pin::new(&mut link.inner).poll_write(cx, data);
        }
        if link.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(SEAL)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        link.write(data).map_err(Broken::from)?;
        match link.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = &mut self.get_mut().0;
        ready!(link.poll_drain(cx))?;
        Pin::new(&mut link.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = &mut self.get_mut().0;
        link.end_writing().map_err(Broken::from)?;
        ready!(link.poll_drain(cx))?;
        // v2ray heeds the empty chunk, sing-vmess may not (bufio.ChunkReader passes it over): the connection ends as well.
        Pin::new(&mut link.inner).poll_shutdown(cx)
    }
}

impl Stream for Vmess {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        if self.0.reads_raw() && self.0.writes_raw() { self.0.inner.raw_tcp() } else { None }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.0.inner.poll_answer(cx, outcome)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.0.inner.local_addr()
    }
}

#[cfg(test)]
mod tests;
