//! A connection whose request waits for the first data, and takes it along.
//!
//! The stream below is there from the start: who dials learns at once that a server cannot be reached, and its own
//! handshakes are over when the first data comes. (The reference dials when the first data comes.)

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use crosspoint_kernel::{
    BoxFuture,
    flow::{BoxStream, Stream},
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{client::Recipe, stream::WsStream};

/// See the module.
pub(crate) struct EarlyStream {
    recipe: Arc<Recipe>,
    state: State,
    /// Who reads and who writes may be two tasks: both are woken while the handshake runs.
    both: Arc<Both>,
}

enum State {
    /// No data yet.
    Waiting(BoxStream),
    Shaking(BoxFuture<'static, io::Result<WsStream>>),
    Open(WsStream),
    /// The handshake has failed.
    Failed(io::ErrorKind, String),
}

/// A reader and a writer.
#[derive(Default)]
struct Both(Mutex<[Option<Waker>; 2]>);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *self.0.lock());
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Both {
    fn set(&self, who: usize, cx: &Context<'_>) {
        if let Some(waker) = self.0.lock().get_mut(who) {
            *waker = Some(cx.waker().clone());
        }
    }
}

const READER: usize = 0;
const WRITER: usize = 1;

impl EarlyStream {
    pub(crate) fn new(stream: BoxStream, recipe: Arc<Recipe>) -> Self {
        Self { recipe, state: State::Waiting(stream), both: Arc::default() }
    }

    /// The connection, once there is one.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        who: usize,
    ) -> Poll<io::Result<Pin<&mut WsStream>>> {
        let polled = match &mut self.state {
            State::Waiting(_) => {
                self.both.set(who, cx);
                return Poll::Pending;
            }
            State::Shaking(handshake) => {
                self.both.set(who, cx);
                let waker = Waker::from(self.both.clone());
                ready!(handshake.as_mut().poll(&mut Context::from_waker(&waker)))
            }
            State::Failed(kind, text) => {
                return Poll::Ready(Err(io::Error::new(*kind, text.clone())));
            }
            State::Open(_) => return self.open(),
        };
        self.state = match polled {
            Ok(stream) => State::Open(stream),
            Err(error) => State::Failed(error.kind(), format!("websocket handshake: {error}")),
        };
        self.both.clone().wake();
        self.open()
    }

    fn open(&mut self) -> Poll<io::Result<Pin<&mut WsStream>>> {
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            State::Failed(kind, text) => Poll::Ready(Err(io::Error::new(*kind, text.clone()))),
            State::Waiting(_) | State::Shaking(_) => Poll::Pending,
        }
    }

    /// Sends the request with as much of the data as it may hold.
    fn begin(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut data = Vec::new();
        for buf in bufs {
            let n = buf.len().min(self.recipe.max_early().saturating_sub(data.len()));
            data.extend(buf.get(..n).unwrap_or_default());
        }
        let len = data.len();
        let recipe = self.recipe.clone();
        let gone = State::Failed(io::ErrorKind::NotConnected, String::new());
        if let State::Waiting(stream) = std::mem::replace(&mut self.state, gone) {
            self.state = State::Shaking(Box::pin(async move {
                recipe.shake_hands(stream, &data).await.map_err(super::AskError::io)
            }));
            if let Poll::Ready(Err(error)) = self.poll_open(cx, WRITER) {
                return Err(error);
            }
            // Who was there first may read now.
            self.both.clone().wake();
        }
        Ok(len)
    }
}

impl AsyncRead for EarlyStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_open(cx, READER))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for EarlyStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Waiting(_) = this.state {
            if bufs.iter().all(|buf| buf.is_empty()) {
                return Poll::Ready(Ok(0));
            }
            return Poll::Ready(this.begin(cx, bufs));
        }
        ready!(this.poll_open(cx, WRITER))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Waiting(_) = this.state {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_open(cx, WRITER))?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Waiting(stream) = &mut this.state {
            return Pin::new(stream).poll_shutdown(cx);
        }
        ready!(this.poll_open(cx, WRITER))?.poll_shutdown(cx)
    }
}

impl Stream for EarlyStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Waiting(stream) => stream.local_addr(),
            State::Open(stream) => stream.local_addr(),
            State::Shaking(_) | State::Failed(..) => None,
        }
    }
}
