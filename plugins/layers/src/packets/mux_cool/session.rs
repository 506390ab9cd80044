//! The stream with sessions inside: reads frames and hands their data to the sessions, and sends the frames that these
//! have made.

use std::{
    collections::HashMap,
    future::poll_fn,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use crosspoint_kernel::{
    BoxFuture,
    addr::Target,
    flow::{BoxStream, Flow},
    session::Network,
};
use parking_lot::Mutex;
use tokio::io::AsyncWrite as _;
use tracing::debug;

use super::{
    branch::{Branch, Datagrams, Inbox, Stream},
    frame::{self, Head, Parsed, Status},
};
use crate::{
    branches::Branches,
    input::{Input, Output},
    packets::packet_addr,
    pool,
};

/// Bytes that wait to be sent before sessions have to wait.
const OUT: usize = 128 * 1024;

/// Sessions that a stream may have at a time. Clients have at most 1,024.
const MOST: usize = 2048;

/// Carries the connections of a stream.
pub(super) trait Carrier: Clone + Send + Sync + 'static {
    /// Carries one to its end in a task of its own; false when there is no room for it.
    fn carry(&self, target: Target, flow: Flow) -> BoxFuture<'static, bool>;
}

impl Carrier for Branches {
    fn carry(&self, target: Target, flow: Flow) -> BoxFuture<'static, bool> {
        let this = self.clone();
        Box::pin(async move { this.conn(target, flow).await })
    }
}

/// What the sessions of a stream share.
#[derive(Default)]
pub(super) struct Shared {
    out: Mutex<Out>,
    branches: Mutex<HashMap<u16, Arc<Branch>>>,
}

/// Frames on their way out.
#[derive(Default)]
struct Out {
    frames: Vec<u8>,
    /// The task of the stream, when it waits.
    task: Option<Waker>,
    /// Sessions that wait for room.
    waiting: Vec<Waker>,
    closed: bool,
}

impl Shared {
    /// Appends frames, unless there is no room.
    pub(super) fn poll_emit<T>(
        &self,
        cx: &mut Context<'_>,
        emit: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> Poll<io::Result<T>> {
        let mut out = self.out.lock();
        if out.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if out.frames.len() >= OUT {
            if !out.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                out.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(out.append(emit)))
    }

    /// Says that a session ends. Such frames are always taken: there are no more of them than sessions.
    pub(super) fn end(&self, session: u16, error: bool) {
        let mut out = self.out.lock();
        if !out.closed {
            let head = Head { session, status: Status::End, error, to: None };
            out.append(|out| frame::emit(&head, None, out));
        }
    }

    /// The task of the stream has something to do.
    pub(super) fn wake(&self) {
        let task = self.out.lock().task.take();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Forgets a session, if it is still the one of its number.
    pub(super) fn forget(&self, session: u16, branch: &Arc<Branch>) {
        let mut branches = self.branches.lock();
        if branches.get(&session).is_some_and(|known| Arc::ptr_eq(known, branch)) {
            branches.remove(&session);
        }
    }

    fn close(&self) {
        let mut out = self.out.lock();
        out.closed = true;
        pool::give_output(mem::take(&mut out.frames));
        let waiting = mem::take(&mut out.waiting);
        drop(out);
        waiting.into_iter().for_each(Waker::wake);
        let branches = mem::take(&mut *self.branches.lock());
        branches.values().for_each(|branch| branch.fail(io::ErrorKind::ConnectionAborted));
    }
}

impl Out {
    fn append<T>(&mut self, emit: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.frames.capacity() == 0 {
            self.frames = pool::output();
        }
        let made = emit(&mut self.frames);
        if let Some(task) = self.task.take() {
            task.wake();
        }
        made
    }
}

/// See the module.
pub(super) struct Session<C> {
    stream: BoxStream,
    carrier: C,
    shared: Arc<Shared>,
    input: Input,
    sending: Output,
    /// Something was sent since it was flushed.
    dirty: bool,
}

impl<C> Drop for Session<C> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<C: Carrier> Session<C> {
    pub(super) fn new(stream: BoxStream, carrier: C) -> Self {
        Self {
            stream,
            carrier,
            shared: Arc::default(),
            input: Input::default(),
            sending: Output::default(),
            dirty: false,
        }
    }

    pub(super) async fn run(mut self) -> io::Result<()> {
        poll_fn(|cx| {
            // Whoever appends a frame from now on wakes us.
            self.shared.out.lock().task = Some(cx.waker().clone());
            if let Poll::Ready(Err(error)) = self.poll_out(cx) {
                return Poll::Ready(Err(error));
            }
            self.poll_in(cx)
        })
        .await
    }

    /// Sends what there is. Ready when there is nothing left.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.sending.is_empty() {
                ready!(self.sending.poll_drain(cx, &mut self.stream))?;
                self.dirty = true;
            }
            let (frames, waiting) = {
                let mut out = self.shared.out.lock();
                (mem::take(&mut out.frames), mem::take(&mut out.waiting))
            };
            waiting.into_iter().for_each(Waker::wake);
            if frames.is_empty() {
                break;
            }
            self.sending = Output::of(frames);
        }
        if self.dirty {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads frames until there are no more, or one cannot be handed on.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match frame::parse(self.input.bytes())? {
                Parsed::Frame { head, payload, used } => {
                    if !self.take(head, payload)? {
                        return Poll::Pending;
                    }
                    self.input.consume(used);
                }
                Parsed::Need(need) => {
                    if ready!(self.input.poll_receive(cx, &mut self.stream, need))? == 0 {
                        return Poll::Ready(match self.input.is_empty() {
                            true => Ok(()),
                            false => Err(io::ErrorKind::UnexpectedEof.into()),
                        });
                    }
                }
            }
        }
    }

    /// Takes a frame. False: its session has no room, and wakes the stream's task when it has.
    fn take(&mut self, head: Head, payload: Option<std::ops::Range<usize>>) -> io::Result<bool> {
        let Head { session, status, error, to } = head;
        let data = payload.and_then(|at| self.input.bytes().get(at)).unwrap_or_default();
        let known = self.shared.branches.lock().get(&session).cloned();
        match (status, known) {
            (Status::New, known) => {
                let Some((network, target)) = to else { return Ok(true) };
                if let Some(old) = known {
                    // The number belongs to somebody else from now on.
                    self.shared.forget(session, &old);
                    old.fail(io::ErrorKind::ConnectionReset);
                }
                let branch = Branch::new(network, target.clone());
                match network {
                    Network::Tcp => drop(branch.inbox().stream(data)),
                    Network::Udp if !data.is_empty() => branch.inbox().datagram(data, target),
                    Network::Udp => {}
                }
                self.open(session, branch);
            }
            (Status::Keep, Some(branch)) => {
                let mut inbox = branch.inbox();
                match branch.network {
                    Network::Tcp => return Ok(inbox.stream(data)),
                    Network::Udp if data.is_empty() => {}
                    Network::Udp => {
                        let peer = to.map_or_else(|| branch.target.clone(), |(_, peer)| peer);
                        inbox.datagram(data, peer);
                    }
                }
            }
            (Status::Keep, None) => {
                // The client is told, unless it does not listen.
                if self.shared.out.lock().frames.len() < OUT {
                    self.shared.end(session, true);
                }
            }
            (Status::End, Some(branch)) if error => branch.fail(io::ErrorKind::ConnectionReset),
            (Status::End, Some(branch)) => branch.inbox().end(),
            (Status::End, None) | (Status::KeepAlive, _) => {}
        }
        Ok(true)
    }

    /// Hands a new session out.
    fn open(&self, number: u16, branch: Arc<Branch>) {
        let count = {
            let mut branches = self.shared.branches.lock();
            branches.insert(number, branch.clone());
            branches.len()
        };
        let Branch { network, target, .. } = &*branch;
        let (network, target) = (*network, target.clone());
        let inbox = Inbox::new(number, branch, self.shared.clone());
        if count > MOST {
            debug!("mux.cool connection to {target} refused: too many in one stream");
            return;
        }
        let carrier = self.carrier.clone();
        // There may be no room for it yet, and the others must not wait for that.
        tokio::spawn(async move {
            let (target, flow) = match network {
                Network::Tcp => (target, Flow::Stream(Box::new(Stream::new(inbox)))),
                Network::Udp => {
                    let packets = Box::new(Datagrams::new(inbox));
                    if packet_addr::is_wanted(&target) {
                        match packet_addr::accept(packets).await {
                            Ok((target, packets)) => (target, Flow::Packet(packets)),
                            Err(_) => return,
                        }
                    } else {
                        (target, Flow::Packet(packets))
                    }
                }
            };
            carrier.carry(target, flow).await;
        });
    }
}

#[cfg(test)]
mod tests;
