//! One connection after its handshake: bytes in, frames out, and the times that hold for both sides.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crosspoint_kernel::flow::BoxStream;
use crosspoint_layers::input::Input;
use tokio::{
    io::AsyncWrite as _,
    time::{Instant, Sleep},
};

use crate::mailbox::{Mailbox, Queue};

/// Bytes that are read before others get their turn, who must also send what they were given.
pub(crate) const TURN: usize = 64 << 10;

/// A timer that is only set anew when it would ring too late.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(crate) fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Ready when `at` has come, and perhaps before: who is woken looks at the clock.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.sleep.is_elapsed() || at < self.sleep.deadline() {
            self.sleep.as_mut().reset(at);
        }
        self.sleep.as_mut().poll(cx)
    }
}

/// The two directions of a connection.
pub(crate) struct Pump {
    pub(crate) stream: BoxStream,
    pub(crate) input: Input,
    pub(crate) mailbox: Arc<Mailbox>,
    out: Queue,
    unflushed: bool,
    /// Bytes that were sent.
    pub(crate) sent: u64,
    /// When the other side must have taken some bytes.
    pub(crate) due: Option<Instant>,
    /// How long it may take none.
    patience: Duration,
}

impl Pump {
    pub(crate) fn new(
        stream: BoxStream,
        input: Input,
        mailbox: Arc<Mailbox>,
        patience: Duration,
    ) -> Self {
        let (out, due) = (Queue::new(), None);
        Self { stream, input, mailbox, out, unflushed: false, sent: 0, due, patience }
    }

    /// Sends what waits. Ready with an error only.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Error> {
        match self.try_send(cx) {
            Poll::Ready(Ok(())) => {
                self.due = None;
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Pending => {
                self.due.get_or_insert(now + self.patience);
                Poll::Pending
            }
        }
    }

    fn try_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.out.is_empty() {
                let (one, two) = self.out.as_slices();
                let bytes = if one.is_empty() { two } else { one };
                let n = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                drop(self.out.drain(..n));
                (self.unflushed, self.due) = (true, None);
                self.sent += n as u64;
            }
            if self.mailbox.take(&mut self.out) {
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.unflushed = false;
                continue;
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// Receives more, so that `need` bytes can be there; 0 is the end.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        need: usize,
    ) -> Poll<io::Result<usize>> {
        self.input.poll_receive(cx, &mut self.stream, need)
    }
}

/// The earliest of some times.
pub(crate) fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}
