//! The task of a session: it alone reads from and writes to the connection.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _},
    time::{Duration, Instant, Sleep, sleep_until},
};

use super::{
    carrier::Carrier,
    frame::{AWAY_NORMAL, AWAY_PROTOCOL, Dialect, Frame},
    pipe::{Broken, Pipe},
    session::{MuxStream, Session},
};
use crate::pool;

/// How much is read at once.
const READ: usize = 64 * 1024;

/// A buffer with less room than this gets a successor.
const ROOM: usize = 16 * 1024;

/// Reads until other tasks get their turn.
const TURNS: u32 = 32;

/// With so much to send, nothing more is read that may cause more of it.
const CROWDED: usize = 512 * 1024;

/// Most streams of the other side at a time.
pub(super) const STREAMS: usize = 4096;

/// Signs of life of yamux, and how long one may take (hashicorp/yamux, mux.go).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);

/// How long a stream of yamux may wait to be accepted until no more streams are opened in the session (sing-mux, session.go;
/// there it ends the session and all of its streams).
const ACCEPT: Duration = Duration::from_secs(5);

/// How long a session stands still until the stream that holds most is reset.
pub(super) const STALLED: Duration = Duration::from_secs(15);

/// Runs a session to its end. `accept` takes the streams of the other side.
///
/// # Errors
/// The connection failed, or the other side broke the protocol.
pub(super) async fn run(
    session: Arc<Session>,
    carrier: Carrier,
    accept: impl FnMut(MuxStream) + Send,
) -> io::Result<()> {
    let mut driver = Driver {
        session,
        carrier,
        accept,
        input: BytesMut::new(),
        payload: None,
        writing: Vec::new(),
        written: 0,
        dirty: false,
        ping: None,
        next_ping: Instant::now() + KEEP_ALIVE,
        pings: 0,
        full_since: None,
        alarm: None,
    };
    poll_fn(|cx| driver.poll(cx)).await
}

/// The rest of a frame.
struct Payload {
    left: usize,
    /// Whose it is; nobody's is thrown away.
    pipe: Option<Arc<Pipe>>,
    /// The stream ends with it.
    last: bool,
}

struct Driver<A> {
    session: Arc<Session>,
    carrier: Carrier,
    accept: A,
    input: BytesMut,
    payload: Option<Payload>,
    writing: Vec<u8>,
    written: usize,
    /// Written since it was flushed.
    dirty: bool,
    /// A sign of life that is not answered yet: until when.
    ping: Option<Instant>,
    next_ping: Instant,
    pings: u32,
    full_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<A> Drop for Driver<A> {
    fn drop(&mut self) {
        self.session.close();
        pool::give_output(std::mem::take(&mut self.writing));
    }
}

impl<A: FnMut(MuxStream)> Driver<A> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.task.register(cx.waker());
        let mut sent = self.poll_out(cx)?;
        match self.poll_in(cx) {
            Ok(Input::More) => cx.waker().wake_by_ref(),
            Ok(Input::Idle) => {}
            Ok(Input::End) => return Poll::Ready(Ok(())),
            Err(error) => {
                // A last word, as far as the socket takes it.
                let _ = self.poll_out(cx)?;
                return Poll::Ready(Err(error));
            }
        }
        self.poll_alarm(cx)?;
        if sent.is_ready() || !self.session.out.lock().bytes.is_empty() {
            sent = self.poll_out(cx)?;
        }
        if sent.is_ready() && self.session.is_draining() && self.session.live() == 0 {
            let _ = Pin::new(&mut self.carrier).poll_shutdown(cx)?;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Sends what there is. Ready when all is sent.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                let mut out = self.session.out.lock();
                if out.bytes.is_empty() {
                    drop(out);
                    pool::give_output(std::mem::take(&mut self.writing));
                    if self.dirty {
                        match Pin::new(&mut self.carrier).poll_flush(cx)? {
                            Poll::Ready(()) => self.dirty = false,
                            Poll::Pending => return Ok(Poll::Pending),
                        }
                    }
                    return Ok(Poll::Ready(()));
                }
                std::mem::swap(&mut self.writing, &mut out.bytes);
                drop(out);
                self.session.room();
            }
            match Pin::new(&mut self.carrier).poll_write(cx, &self.writing[self.written..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => {
                    self.written += n;
                    self.dirty = true;
                }
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) -> io::Result<Input> {
        for _ in 0..TURNS {
            if !self.take_apart()? {
                return Ok(Input::Idle);
            }
            if self.session.out.lock().bytes.len() >= CROWDED {
                // Woken again when the socket has taken something.
                return Ok(Input::Idle);
            }
            if self.input.capacity() - self.input.len() < ROOM {
                self.input.reserve(READ);
            }
            match pin!(self.carrier.read_buf(&mut self.input)).poll(cx) {
                Poll::Ready(Ok(0)) if self.payload.is_none() && self.input.is_empty() => {
                    return Ok(Input::End);
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    if self.input.is_empty() {
                        // An idle session holds no buffer.
                        self.input = BytesMut::new();
                    }
                    return Ok(Input::Idle);
                }
            }
        }
        Ok(Input::More)
    }

    /// Takes frames from what was read. False: the streams hold as much as they may.
    fn take_apart(&mut self) -> io::Result<bool> {
        loop {
            if self.is_full() {
                return Ok(false);
            }
            if let Some(payload) = &mut self.payload {
                let n = payload.left.min(self.input.len());
                if n == 0 && payload.left > 0 {
                    return Ok(true);
                }
                payload.left -= n;
                let last = payload.left == 0 && payload.last;
                let pipe = payload.pipe.clone();
                if payload.left == 0 {
                    self.payload = None;
                }
                match pipe {
                    Some(pipe) => self.deliver(&pipe, n, last),
                    None => self.input.advance(n),
                }
                continue;
            }
            let frame = self.session.dialect.parse(&self.input).map_err(invalid)?;
            let Some((frame, len)) = frame else { return Ok(true) };
            self.input.advance(len);
            self.frame(frame)?;
        }
    }

    /// Whether nothing more may be received; then somebody who reads wakes the task.
    fn is_full(&mut self) -> bool {
        let session = &self.session;
        let full = || session.unread.load(Ordering::SeqCst) >= session.limit;
        if full() {
            session.full.store(true, Ordering::SeqCst);
            if full() {
                self.full_since.get_or_insert_with(Instant::now);
                return true;
            }
            session.full.store(false, Ordering::SeqCst);
        }
        self.full_since = None;
        false
    }

    /// Gives the first `n` bytes to a stream.
    fn deliver(&mut self, pipe: &Pipe, n: usize, last: bool) {
        let piece = self.input.split_to(n).freeze();
        let mut state = pipe.state.lock();
        if state.gone || state.ended || state.broken.is_some() {
            return;
        }
        state.ended = last;
        let reader = state.reader.take();
        if n > 0 {
            self.session.unread.fetch_add(n, Ordering::SeqCst);
            state.received.push(piece);
        }
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    fn frame(&mut self, frame: Frame) -> io::Result<()> {
        let session = self.session.clone();
        match frame.ping {
            Some((false, number)) => {
                session.send(|out| session.dialect.ping(true, number, out));
                return Ok(());
            }
            Some((true, _)) => {
                self.ping = None;
                return Ok(());
            }
            None => {}
        }
        match frame.away {
            Some(AWAY_NORMAL) => {
                session.refuse();
                return Ok(());
            }
            Some(reason) => {
                return Err(io::Error::other(format!("peer goes away: reason {reason}")));
            }
            None => {}
        }
        if frame.syn {
            self.begin(frame.id)?;
        }
        let pipe = session.streams.lock().by_id.get(&frame.id).cloned();
        let bytes = frame.payload as usize + frame.skip as usize;
        let Some(pipe) = pipe else {
            // Ended by us, or never known: what was on its way is read over.
            self.payload = (bytes > 0).then_some(Payload { left: bytes, pipe: None, last: false });
            return Ok(());
        };
        self.mark(&pipe, &frame)?;
        if bytes > 0 {
            let pipe = (frame.payload > 0).then_some(pipe);
            self.payload = Some(Payload { left: bytes, pipe, last: frame.fin });
        }
        Ok(())
    }

    /// What a frame says of its stream.
    fn mark(&mut self, pipe: &Arc<Pipe>, frame: &Frame) -> io::Result<()> {
        let session = &self.session;
        let (mut over, mut wake) = (frame.rst, [None, None]);
        {
            let mut state = pipe.state.lock();
            if session.dialect == Dialect::Yamux {
                if frame.payload > state.may_receive {
                    session.send(|out| session.dialect.away(AWAY_PROTOCOL, out));
                    return Err(io::Error::other("peer sends more than its window allows"));
                }
                state.may_receive -= frame.payload;
                state.may_send = state.may_send.saturating_add(frame.window);
                if frame.window > 0 {
                    wake[1] = state.writer.take();
                }
                if state.gone && frame.payload > 0 {
                    // Nobody will read it: the other side need not send the rest.
                    session.send(|out| session.dialect.reset(frame.id, out));
                    over = true;
                }
            }
            state.half |= frame.half;
            if frame.fin && frame.payload == 0 {
                if state.ended {
                    // The second one: now nobody reads there any more.
                    state.half = false;
                }
                state.ended = true;
                over |= state.gone;
                wake[0] = state.reader.take();
            }
            if frame.rst {
                state.broken.get_or_insert(Broken::Reset);
                wake = [state.reader.take(), state.writer.take()];
            }
        }
        wake.into_iter().flatten().for_each(Waker::wake);
        if over {
            session.streams.lock().by_id.remove(&frame.id);
        }
        if (frame.ack || frame.rst) && pipe.accept() {
            session.accepted();
        }
        Ok(())
    }

    /// The other side opens a stream.
    fn begin(&mut self, id: u32) -> io::Result<()> {
        let session = &self.session;
        let dialect = session.dialect;
        let mut streams = session.streams.lock();
        if streams.by_id.contains_key(&id) {
            if dialect == Dialect::Smux {
                return Ok(());
            }
            drop(streams);
            session.send(|out| dialect.away(AWAY_PROTOCOL, out));
            return Err(io::Error::other("peer opens a stream twice"));
        }
        // smux cannot say that no more streams are welcome: a session that drains takes them on.
        let late = session.is_draining() && dialect == Dialect::Yamux;
        if session.client || late || streams.by_id.len() >= STREAMS {
            drop(streams);
            session.send(|out| dialect.reset(id, out));
            return Ok(());
        }
        let stream = session.insert(&mut streams, id, true);
        drop(streams);
        session.send(|out| dialect.accept(id, out));
        (self.accept)(stream);
        Ok(())
    }

    /// Does what is due, and waits for what will be.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let Some(due) = self.due() else {
                self.alarm = None;
                return Ok(());
            };
            if due <= Instant::now() {
                self.on_time()?;
                continue;
            }
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
    }

    /// When something is to be done next.
    fn due(&self) -> Option<Instant> {
        let mut due = self.full_since.filter(|_| self.session.live() > 1).map(|at| at + STALLED);
        if self.session.dialect == Dialect::Yamux {
            let linger = self.session.streams.lock().lingering.front().map(|(until, _)| *until);
            let accept = match self.session.takes_more() {
                true => self.session.out.lock().unaccepted_since.map(|since| since + ACCEPT),
                false => None,
            };
            let ping = self.ping.unwrap_or(self.next_ping);
            due = [due, linger, accept, Some(ping)].into_iter().flatten().min();
        }
        due
    }

    fn on_time(&mut self) -> io::Result<()> {
        let (now, session) = (Instant::now(), self.session.clone());
        if self.full_since.is_some_and(|since| since + STALLED <= now) {
            self.full_since = Some(now);
            self.free_the_others();
        }
        if session.dialect == Dialect::Smux {
            return Ok(());
        }
        if self.ping.is_some_and(|until| until <= now) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "keepalive timeout"));
        }
        if self.ping.is_none() && self.next_ping <= now {
            self.next_ping = now + KEEP_ALIVE;
            self.ping = Some(now + ANSWER);
            let number = self.pings;
            self.pings = number.wrapping_add(1);
            session.send(|out| session.dialect.ping(false, number, out));
        }
        let waits = session.out.lock().unaccepted_since;
        if waits.is_some_and(|since| since + ACCEPT <= now) {
            session.refuse();
        }
        let mut over = VecDeque::new();
        {
            let mut streams = session.streams.lock();
            while let Some((_, id)) = streams.lingering.front().filter(|(until, _)| *until <= now) {
                let id = *id;
                streams.lingering.pop_front();
                if streams.by_id.remove(&id).is_some() {
                    over.push_back(id);
                }
            }
        }
        if !over.is_empty() {
            session.send(|out| over.iter().for_each(|id| session.dialect.reset(*id, out)));
        }
        Ok(())
    }

    /// Nothing has moved for long: the stream that holds most goes.
    fn free_the_others(&self) {
        let session = &self.session;
        let worst = {
            let streams = session.streams.lock();
            let held = streams.by_id.values().map(|pipe| (pipe.state.lock().received.len(), pipe));
            held.max_by_key(|(len, _)| *len).map(|(_, pipe)| pipe.clone())
        };
        if let Some(pipe) = worst {
            pipe.break_off(Broken::Stalled);
            let unread = pipe.state.lock().received.clear();
            session.streams.lock().by_id.remove(&pipe.id);
            session.send(|out| session.dialect.reset(pipe.id, out));
            session.consumed(unread);
        }
    }
}

/// What reading has come to.
enum Input {
    /// Nothing to do until the connection or a stream says so.
    Idle,
    /// There is more; others should get their turn.
    More,
    /// The connection has ended between two frames.
    End,
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
