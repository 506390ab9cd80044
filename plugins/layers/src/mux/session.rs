//! A session of smux or yamux: what its streams share, and what they see of it. The task that owns the connection is
//! [`super::driver`].
//!
//! Streams put whole frames into one buffer of bounded size; the task sends it while the next one fills. Who finds it full
//! waits in a queue and gets its turn in order. What is received lies in the streams until it is read.
//!
//! How much that may be: with yamux each stream has a window. smux has none, so that the session alone is bounded, as in the
//! reference: at [`Session::limit`] it stops reading. A stream that nobody reads then stops the others. Here that ends: a
//! session that stands still takes no new streams (the client opens another one), and after
//! [`STALLED`](super::driver::STALLED) the stream that holds most is reset if there are others.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use atomic_waker::AtomicWaker;
use crosspoint_kernel::flow::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Duration, Instant},
};

use super::{
    frame::{Dialect, WINDOW},
    pipe::{Broken, Pipe, State},
};
use crate::pool;

/// Bytes that wait to be sent until writers have to wait.
const OUT: usize = 64 * 1024;

/// Less room than this is none.
const LEAST: usize = 2 * 1024;

/// Longest payload of a frame in bytes (the reference's smux sends no longer ones).
const FRAME: usize = 32 * 1024;

/// Streams of yamux that may be opened before the other side has accepted them.
const UNACCEPTED: usize = 256;

/// How long a yamux stream that we have ended waits for its other end.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// What the streams and the task of a session share.
pub(super) struct Session {
    pub(super) dialect: Dialect,
    pub(super) client: bool,
    /// Most bytes that are received and not read, in all streams together.
    pub(super) limit: usize,
    pub(super) out: Mutex<Out>,
    pub(super) streams: Mutex<Streams>,
    /// Bytes that are received and not read.
    pub(super) unread: AtomicUsize,
    /// The task has stopped reading because of them.
    pub(super) full: AtomicBool,
    /// Streams that somebody holds.
    live: AtomicUsize,
    /// No more streams, and the end after the last one.
    draining: AtomicBool,
    /// The other side takes no more streams, or does not accept them in time.
    refusing: AtomicBool,
    closed: AtomicBool,
    pub(super) task: AtomicWaker,
    local: Option<SocketAddr>,
}

/// What is to be sent.
#[derive(Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    /// Writers that wait for room.
    waiting: VecDeque<Arc<Pipe>>,
    /// Writers whose stream may not be opened yet.
    opening: VecDeque<Arc<Pipe>>,
    closed: bool,
    /// Streams of ours that have not been accepted yet.
    unaccepted: usize,
    /// Since when none of them was.
    pub(super) unaccepted_since: Option<Instant>,
}

impl Out {
    /// The buffer, to append frames to.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool::output();
        }
        &mut self.bytes
    }

    /// Gives the next in the queue its turn; whom to wake when the lock is released.
    fn next(&mut self) -> Option<Arc<Pipe>> {
        self.waiting.pop_front()
    }
}

/// What became of bytes that are to be written.
enum Put {
    /// So many go out.
    Done(usize),
    /// There is no room.
    Full,
    /// Too many streams wait to be accepted.
    NotYet,
}

/// Streams by number.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) by_id: HashMap<u32, Arc<Pipe>>,
    next: u32,
    /// Ended by us and not by the other side; see [`LINGER`].
    pub(super) lingering: VecDeque<(Instant, u32)>,
}

/// Wakes a writer whose turn it is.
fn give_turn(pipe: &Pipe) {
    let writer = {
        let mut state = pipe.state.lock();
        state.queued = false;
        state.turn = true;
        state.writer.take()
    };
    writer.into_iter().for_each(Waker::wake);
}

impl Session {
    pub(super) fn new(dialect: Dialect, client: bool, local: Option<SocketAddr>) -> Arc<Self> {
        // The first stream of smux has number 3, as in Go: it counts up before it takes a number.
        let next = match (dialect, client) {
            (Dialect::Smux, true) => 3,
            (Dialect::Yamux, true) => 1,
            (_, false) => 2,
        };
        let limit = match dialect {
            Dialect::Smux => 4 << 20,
            Dialect::Yamux => 16 << 20,
        };
        Arc::new(Self {
            dialect,
            client,
            limit,
            out: Mutex::default(),
            streams: Mutex::new(Streams { next, ..Streams::default() }),
            unread: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            task: AtomicWaker::new(),
            local,
        })
    }

    /// Streams that somebody holds.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether a new stream should be opened in it.
    pub(super) fn takes_more(&self) -> bool {
        let not = |flag: &AtomicBool| !flag.load(Ordering::Acquire);
        not(&self.closed) && not(&self.draining) && not(&self.refusing) && not(&self.full)
    }

    /// The other side takes no more.
    pub(super) fn refuse(&self) {
        self.refusing.store(true, Ordering::Release);
    }

    /// Takes no more streams, and ends after the last one.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Opens a stream. The other side hears of it with the first bytes.
    pub(super) fn open(self: &Arc<Self>) -> io::Result<MuxStream> {
        let mut streams = self.streams.lock();
        if self.is_closed() {
            return Err(Broken::Session.into());
        }
        let id = streams.next;
        let Some(next) = id.checked_add(2) else {
            self.refuse();
            return Err(io::Error::other("multiplex session has no more numbers for streams"));
        };
        streams.next = next;
        Ok(self.insert(&mut streams, id, false))
    }

    /// Enters a stream, which the other side may know already.
    pub(super) fn insert(
        self: &Arc<Self>,
        streams: &mut Streams,
        id: u32,
        opened: bool,
    ) -> MuxStream {
        let pipe = Arc::new(Pipe::new(id, opened));
        streams.by_id.insert(id, pipe.clone());
        self.live.fetch_add(1, Ordering::AcqRel);
        MuxStream { session: self.clone(), pipe }
    }

    /// Appends frames and has them sent.
    pub(super) fn send(&self, emit: impl FnOnce(&mut Vec<u8>)) {
        {
            let mut out = self.out.lock();
            if out.closed {
                return;
            }
            emit(out.frames());
        }
        self.task.wake();
    }

    /// Room has been made in what is to be sent: as many writers as will fill it get their turn.
    pub(super) fn room(&self) {
        let next: [_; 2] = {
            let mut out = self.out.lock();
            std::array::from_fn(|_| out.next())
        };
        next.iter().flatten().for_each(|pipe| give_turn(pipe));
    }

    /// A stream of ours was accepted, or refused: another one may be opened.
    pub(super) fn accepted(&self) {
        let next = {
            let mut out = self.out.lock();
            out.unaccepted = out.unaccepted.saturating_sub(1);
            out.unaccepted_since = (out.unaccepted > 0).then(Instant::now);
            out.opening.pop_front()
        };
        if let Some(pipe) = next {
            give_turn(&pipe);
        }
    }

    /// `n` bytes were read, or thrown away.
    pub(super) fn consumed(&self, n: usize) {
        if n > 0
            && self.unread.fetch_sub(n, Ordering::SeqCst) - n < self.limit
            && self.full.swap(false, Ordering::SeqCst)
        {
            self.task.wake();
        }
    }

    /// Ends everything.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        {
            let mut out = self.out.lock();
            out.closed = true;
            out.waiting = VecDeque::new();
            out.opening = VecDeque::new();
            pool::give_output(std::mem::take(&mut out.bytes));
        }
        let pipes = std::mem::take(&mut self.streams.lock().by_id);
        pipes.values().for_each(|pipe| pipe.break_off(Broken::Session));
    }

    fn remove(&self, id: u32) {
        self.streams.lock().by_id.remove(&id);
    }
}

/// A stream of a session.
pub(super) struct MuxStream {
    session: Arc<Session>,
    pipe: Arc<Pipe>,
}

impl MuxStream {
    /// Whether something may be written; how much at most.
    fn writable(&self, state: &State, len: usize) -> io::Result<usize> {
        if let Some(why) = state.broken {
            return Err(why.into());
        }
        if state.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.session.dialect == Dialect::Yamux {
            return Ok(len.min(state.may_send as usize));
        }
        if state.ended && !state.half && state.received.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "stream ended by peer"));
        }
        Ok(len)
    }

    /// Puts frames with the first bytes of `data` where they are sent from.
    fn put(&self, state: &mut State, data: &[u8], turn: bool, out: &mut Out) -> Put {
        let dialect = self.session.dialect;
        let room = OUT.saturating_sub(out.bytes.len());
        if !state.opened && out.unaccepted >= UNACCEPTED {
            return Put::NotYet;
        }
        if dialect == Dialect::Smux && state.ended && !state.half {
            // The other side throws it away. What it sent before is still to be read, so that this is no error yet.
            return Put::Done(data.len());
        }
        if room < LEAST || !turn && !out.waiting.is_empty() {
            return Put::Full;
        }
        self.open(state, out);
        let n = data.len().min(room - dialect.header());
        let frames = out.frames();
        for piece in data[..n].chunks(FRAME) {
            dialect.data(self.pipe.id, piece.len() as u16, frames);
            frames.extend_from_slice(piece);
        }
        Put::Done(n)
    }

    /// Tells the other side of the stream.
    fn open(&self, state: &mut State, out: &mut Out) {
        if !state.opened {
            state.opened = true;
            self.session.dialect.open(self.pipe.id, out.frames());
            if self.session.dialect == Dialect::Yamux {
                out.unaccepted += 1;
                out.unaccepted_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let session = &self.session;
        let mut state = self.pipe.state.lock();
        let n = state.received.read(buf);
        if n == 0 {
            if state.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(why) = state.broken {
                return Poll::Ready(Err(why.into()));
            }
            match &mut state.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let mut more = 0;
        if session.dialect == Dialect::Yamux && !state.ended {
            let held = u32::try_from(state.received.len()).unwrap_or(WINDOW);
            let free = WINDOW.saturating_sub(held).saturating_sub(state.may_receive);
            if free >= WINDOW / 2 {
                more = free;
                state.may_receive += free;
            }
        }
        drop(state);
        if more > 0 {
            session.send(|out| session.dialect.window(self.pipe.id, more, out));
        }
        session.consumed(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let session = &self.session;
        let mut state = self.pipe.state.lock();
        let turn = std::mem::take(&mut state.turn);
        let allowed = self.writable(&state, data.len());
        let mut next = None;
        let result = match allowed {
            Err(error) => {
                next = turn.then(|| session.out.lock().next()).flatten();
                Poll::Ready(Err(error))
            }
            Ok(allowed) => {
                let mut out = session.out.lock();
                if out.closed {
                    return Poll::Ready(Err(Broken::Session.into()));
                }
                let put =
                    (allowed > 0).then(|| self.put(&mut state, &data[..allowed], turn, &mut out));
                if let Some(Put::Done(n)) = put {
                    if session.dialect == Dialect::Yamux {
                        state.may_send -= n as u32;
                    }
                    if OUT.saturating_sub(out.bytes.len()) >= LEAST {
                        next = out.next();
                    }
                    Poll::Ready(Ok(n))
                } else {
                    let full = matches!(put, Some(Put::Full));
                    let queue = if full { &mut out.waiting } else { &mut out.opening };
                    if put.is_some() && !std::mem::replace(&mut state.queued, true) {
                        queue.push_back(self.pipe.clone());
                    }
                    if turn && !full {
                        // It is of no use to a stream that may not write.
                        next = out.next();
                    }
                    match &mut state.writer {
                        Some(waker) => waker.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    Poll::Pending
                }
            }
        };
        drop(state);
        if matches!(result, Poll::Ready(Ok(_))) {
            session.task.wake();
        }
        if let Some(pipe) = next {
            give_turn(&pipe);
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task sends what there is without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = &self.session;
        let mut state = self.pipe.state.lock();
        if state.broken.is_none() && !std::mem::replace(&mut state.finished, true) {
            let mut out = session.out.lock();
            if !out.closed {
                self.open(&mut state, &mut out);
                session.dialect.half(self.pipe.id, out.frames());
                session.dialect.end(self.pipe.id, out.frames());
            }
            drop(out);
            drop(state);
            session.task.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for MuxStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.session.local
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let (session, id) = (&self.session, self.pipe.id);
        let mut linger = false;
        let (unread, waits) = {
            let mut state = self.pipe.state.lock();
            state.gone = true;
            let known = state.opened && state.broken.is_none();
            match session.dialect {
                // Also after the end of one direction: now it is that of both.
                Dialect::Smux if known && !(state.finished && state.ended) => {
                    session.send(|out| session.dialect.end(id, out));
                }
                Dialect::Yamux if known && !state.finished => {
                    session.send(|out| session.dialect.reset(id, out));
                }
                Dialect::Yamux if known && !state.ended => linger = true,
                _ => {}
            }
            (state.received.clear(), state.turn || state.queued)
        };
        if linger {
            let mut streams = session.streams.lock();
            streams.lingering.push_back((Instant::now() + LINGER, id));
        } else {
            session.remove(id);
        }
        session.consumed(unread);
        if waits {
            let mut out = session.out.lock();
            out.waiting.retain(|other| !Arc::ptr_eq(other, &self.pipe));
            out.opening.retain(|other| !Arc::ptr_eq(other, &self.pipe));
            let next = out.next();
            drop(out);
            if let Some(pipe) = next {
                give_turn(&pipe);
            }
        }
        if session.dialect == Dialect::Yamux && self.pipe.accept() {
            session.accepted();
        }
        session.live.fetch_sub(1, Ordering::AcqRel);
        if linger || session.is_draining() {
            session.task.wake();
        }
    }
}
