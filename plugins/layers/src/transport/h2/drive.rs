//! The work of one connection at the client: frames and pings.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use crosspoint_kernel::flow::BoxStream;
use h2::{Ping, PingPong, client::Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use super::shared::Shared;

/// When a connection is asked whether it still lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::transport) struct KeepAlive {
    /// After so long without anything from the server; never if there is none.
    pub(in crate::transport) idle: Option<Duration>,
    /// How long it may take to answer.
    pub(in crate::transport) patience: Duration,
    /// Whether a connection without streams is asked as well.
    pub(in crate::transport) unused: bool,
}

/// A stream that notes when something was read from it.
pub(super) struct Heard {
    stream: BoxStream,
    shared: Arc<Shared>,
}

impl Heard {
    pub(super) fn new(stream: BoxStream, shared: Arc<Shared>) -> Self {
        Self { stream, shared }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.shared.hear();
        }
        result
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Works until the connection is broken, or until nobody can open streams on it any more and the last one has ended.
pub(super) async fn drive(
    mut connection: Connection<Heard, Bytes>,
    shared: Arc<Shared>,
    keep: KeepAlive,
) {
    let pings = connection.ping_pong();
    let mut connection = pin!(connection);
    let end = match (keep.idle, pings) {
        (Some(idle), Some(pings)) => {
            let mut prober = Prober {
                pings,
                asked: false,
                idle,
                timer: Box::pin(sleep_until(Instant::now() + idle)),
                keep,
                shared: shared.clone(),
            };
            poll_fn(|cx| {
                if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                    return Poll::Ready(end.map_err(|error| error.to_string()));
                }
                prober.poll(cx).map(Err)
            })
            .await
        }
        _ => connection.as_mut().await.map_err(|error| error.to_string()),
    };
    shared.end();
    if let Err(why) = end {
        debug!("HTTP/2 connection to a server: {why}");
    }
}

/// Asks a silent server whether it lives.
struct Prober {
    pings: PingPong,
    /// A ping is on its way.
    asked: bool,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    keep: KeepAlive,
    shared: Arc<Shared>,
}

impl Prober {
    /// Ready, with the reason, when the connection must be given up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            if self.asked {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.asked = false;
                        self.wait(Instant::now() + self.idle);
                    }
                    // The connection itself will tell.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.asked {
                return Poll::Ready(format!("no answer to a ping in {:?}", self.keep.patience));
            }
            let now = Instant::now();
            let due = self.shared.heard() + self.idle;
            if due > now {
                self.wait(due);
            } else if !self.keep.unused && self.shared.streams() == 0 {
                self.wait(now + self.idle);
            } else if self.pings.send_ping(Ping::opaque()).is_ok() {
                self.asked = true;
                self.wait(now + self.keep.patience);
            } else {
                return Poll::Pending;
            }
        }
    }

    fn wait(&mut self, until: Instant) {
        self.timer.as_mut().reset(until);
    }
}
