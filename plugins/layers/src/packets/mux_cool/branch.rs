//! One session inside the stream: its bytes or datagrams that were received, and its two faces.

use std::{
    collections::VecDeque,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use crosspoint_kernel::{
    addr::Target,
    flow::{self, Batch, PacketIo},
    session::Network,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frame::{self, Head, Status},
    session::Shared,
};
use crate::pool;

/// Received bytes that a session holds before the stream waits for it.
const BYTES: usize = 64 * 1024;

/// Received datagrams that a session holds before the newest is dropped.
const DATAGRAMS: usize = 64;

/// Bytes of them.
const DATAGRAM_BYTES: usize = 256 * 1024;

/// Longest data of a frame of a stream that we make.
const CHUNK: usize = 32 * 1024;

/// A session.
pub(super) struct Branch {
    pub(super) network: Network,
    pub(super) target: Target,
    received: Mutex<Received>,
}

/// What was received for a session.
#[derive(Default)]
pub(super) struct Received {
    bytes: Vec<u8>,
    /// How many of the bytes were read.
    read: usize,
    datagrams: VecDeque<(Box<[u8]>, Target)>,
    /// Payload of all datagrams.
    held: usize,
    ended: bool,
    failed: Option<io::ErrorKind>,
    /// Nobody reads any more.
    deaf: bool,
    reader: Option<Waker>,
    /// The stream waits for room.
    blocked: bool,
}

impl Branch {
    pub(super) fn new(network: Network, target: Target) -> Arc<Self> {
        Arc::new(Self { network, target, received: Mutex::default() })
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Received> {
        self.received.lock()
    }

    /// The session is over, whatever was received.
    pub(super) fn fail(&self, error: io::ErrorKind) {
        let mut received = self.inbox();
        if !received.ended || error == io::ErrorKind::ConnectionReset {
            received.failed = Some(error);
        }
        received.wake();
    }
}

impl Received {
    /// Takes bytes of a stream. False: there is no room; whoever reads wakes the stream's task.
    pub(super) fn stream(&mut self, data: &[u8]) -> bool {
        if data.is_empty() || self.deaf || self.ended {
            return true;
        }
        let waiting = self.bytes.len() - self.read;
        if waiting > 0 && waiting + data.len() > BYTES {
            self.blocked = true;
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = pool::output();
        }
        if self.read > 0 {
            self.bytes.drain(..mem::take(&mut self.read));
        }
        self.bytes.extend(data);
        self.wake();
        true
    }

    /// Takes a datagram, or drops it.
    pub(super) fn datagram(&mut self, data: &[u8], peer: Target) {
        let full = self.datagrams.len() >= DATAGRAMS || self.held + data.len() > DATAGRAM_BYTES;
        if !full && !self.deaf && !self.ended {
            self.held += data.len();
            self.datagrams.push_back((data.into(), peer));
            self.wake();
        }
    }

    /// The client sends nothing more.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn release(&mut self) {
        self.read = 0;
        pool::give_output(mem::take(&mut self.bytes));
    }
}

/// The right of one task to a session. The session ends with it.
pub(super) struct Inbox {
    number: u16,
    branch: Arc<Branch>,
    shared: Arc<Shared>,
    /// The client was told that nothing more comes.
    ended: bool,
}

impl Inbox {
    pub(super) fn new(number: u16, branch: Arc<Branch>, shared: Arc<Shared>) -> Self {
        Self { number, branch, shared, ended: false }
    }

    fn end(&mut self, error: bool) {
        // A number that was given to another session is not ours to end.
        let taken = self.branch.inbox().failed == Some(io::ErrorKind::ConnectionReset);
        if !mem::replace(&mut self.ended, true) && !taken {
            self.shared.end(self.number, error);
        }
    }

    fn failed(&self) -> io::Result<()> {
        match self.branch.inbox().failed {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let unblocked = {
            let mut received = self.branch.inbox();
            received.deaf = true;
            received.release();
            received.datagrams = VecDeque::new();
            mem::take(&mut received.blocked)
        };
        self.end(self.branch.network == Network::Tcp);
        self.shared.forget(self.number, &self.branch);
        if unblocked {
            self.shared.wake();
        }
    }
}

/// A stream.
pub(super) struct Stream(Inbox);

impl Stream {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self(inbox)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Inbox { branch, shared, .. } = &self.0;
        let mut received = branch.inbox();
        let waiting = &received.bytes[received.read..];
        if waiting.is_empty() {
            return match (received.failed, received.ended) {
                (Some(error), _) => Poll::Ready(Err(error.into())),
                (None, true) => Poll::Ready(Ok(())),
                (None, false) => {
                    received.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let len = waiting.len().min(out.remaining());
        out.put_slice(&waiting[..len]);
        received.read += len;
        if received.read == received.bytes.len() {
            received.release();
        }
        let unblocked = mem::take(&mut received.blocked);
        drop(received);
        if unblocked {
            shared.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inbox = &self.0;
        inbox.failed()?;
        if inbox.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(2 * CHUNK)];
        let head = Head { session: inbox.number, status: Status::Keep, error: false, to: None };
        ready!(inbox.shared.poll_emit(cx, |out| {
            data.chunks(CHUNK).for_each(|chunk| frame::emit(&head, Some(chunk), out));
        }))?;
        Poll::Ready(Ok(data.len()))
    }

    /// The task of the stream sends what there is by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.end(false);
        Poll::Ready(Ok(()))
    }
}

impl flow::Stream for Stream {}

/// An association.
pub(super) struct Datagrams(Inbox);

impl Datagrams {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self(inbox)
    }
}

impl PacketIo for Datagrams {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let mut received = self.0.branch.inbox();
        let before = batch.len();
        while !batch.is_full() {
            let Some((payload, peer)) = received.datagrams.pop_front() else { break };
            received.held -= payload.len();
            batch.push(&payload, peer);
        }
        if batch.len() > before {
            if received.datagrams.is_empty() {
                received.datagrams = VecDeque::new();
            }
            return Poll::Ready(Ok(batch.len() - before));
        }
        match (received.failed, received.ended) {
            (Some(io::ErrorKind::ConnectionReset), _) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            (Some(_), _) | (None, true) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            (None, false) => {
                received.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.0.failed()?;
        let (mut sent, number) = (0, self.0.number);
        let result = loop {
            if sent == batch.len() {
                break Poll::Ready(Ok(()));
            }
            let peer = batch.peer(sent).clone();
            let to = Some((Network::Udp, peer));
            let head = Head { session: number, status: Status::Keep, error: false, to };
            let payload = batch.payload(sent);
            match self.0.shared.poll_emit(cx, |out| frame::emit(&head, Some(payload), out)) {
                Poll::Ready(Ok(())) => sent += 1,
                other => break other,
            }
        };
        match result {
            Poll::Ready(Ok(())) => batch.clear(),
            _ => batch.drain_front(sent),
        }
        result
    }
}
