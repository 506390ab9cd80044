//! Queries on streams (TCP, and TLS over it): few connections, many queries on each, answers in any order
//! (RFC 7766 §6.2.1, RFC 7858).

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, DialError,
    flow::BoxStream,
    resolve::{ExchangeError, Query, Trail},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    route::{Route, broken},
    waiters::{CloseOnDrop, Lost, Refused, Ticket, Waiters},
    wire::{self, Frames},
};

/// Connections to one server.
const CONNECTIONS: usize = 4;

/// Connections to a server that closes them after few answers.
const MANY: usize = 128;

/// Queries on a connection before another one is opened beside it.
const PIPELINE: usize = 16;

/// Time without queries after which a connection is closed.
const IDLE: Duration = Duration::from_secs(30);

/// How often connections are looked at.
const TICK: Duration = Duration::from_secs(2);

/// Silence of a server that owes answers after which its connection is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// Time for dial and handshake.
const OPENING: Duration = Duration::from_secs(10);

/// How long a query waits before it is asked on another connection as well.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Connections that one query is tried on.
const TRIES: u32 = 4;

/// Bytes that may wait to be written: a server that reads nothing gets no more.
const BACKLOG: usize = 1 << 20;

/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// Reads at a stretch before other tasks have a turn.
const BURST: usize = 16;

thread_local! {
    /// Where streams are read to. Never held while a task sleeps.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Opens connections.
pub(crate) trait Open: Send + Sync + 'static {
    /// The way, for errors.
    fn route(&self) -> &Route;

    /// A new connection, ready for queries.
    fn open<'a>(&'a self, trail: &'a Trail) -> BoxFuture<'a, Result<BoxStream, DialError>>;
}

/// TCP.
impl Open for Arc<Route> {
    fn route(&self) -> &Route {
        self
    }

    fn open<'a>(&'a self, trail: &'a Trail) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.connect(trail))
    }
}

/// The connections to one server.
pub(crate) struct Streams<O> {
    opener: Arc<O>,
    pool: Mutex<Vec<Arc<Conn>>>,
    /// Queries that a connection may take in all. Some servers close after one, or after a hundred, and whatever came
    /// behind must be asked again.
    budget: Arc<AtomicU32>,
}

/// One connection, perhaps still being opened.
struct Conn {
    waiters: Arc<Waiters>,
    /// Messages with their lengths in front, on their way out.
    out: Mutex<Vec<u8>>,
    taken: AtomicU32,
    answered: AtomicU32,
    /// It has kept a query waiting for too long.
    suspect: AtomicBool,
}

impl<O: Open> Streams<O> {
    pub(crate) fn new(opener: O) -> Self {
        Self {
            opener: Arc::new(opener),
            pool: Mutex::default(),
            budget: Arc::new(AtomicU32::new(u32::MAX)),
        }
    }

    /// Asks the server; once more on another connection when one is closed or stays silent.
    pub(crate) async fn exchange(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let mut earlier: Option<Ticket> = None;
        let (mut conn, mut ticket) = self.enter(query, false)?;
        let mut tries = 1;
        loop {
            let answer = poll_fn(|cx| {
                if let Some(ticket) = &earlier
                    && let Poll::Ready(Ok(answer)) = ticket.poll_answer(cx)
                {
                    return Poll::Ready(Ok(answer));
                }
                ticket.poll_answer(cx)
            });
            let last = tries >= TRIES;
            let wait = if last { SILENCE } else { PATIENCE };
            match timeout(wait, answer).await {
                Ok(Ok(answer)) => {
                    conn.suspect.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(Lost { error, .. })) => {
                    // A server may close an idle connection while a query is on its way, or after so many
                    // queries. One that has never answered at all gets one more chance.
                    let fair = conn.answered.load(Ordering::Relaxed) > 0 || tries == 1;
                    if last || !fair || matches!(error, ExchangeError::Dial(_)) {
                        return Err(error);
                    }
                    (conn, ticket) = self.enter(query, false)?;
                }
                Err(_) if last => {
                    let target = self.opener.route().target();
                    return Err(ExchangeError::failed(format_args!("no answer from {target}")));
                }
                Err(_) => {
                    conn.suspect.store(true, Ordering::Relaxed);
                    // A connection of its own, in the end: the others may wait, in a circle, for this query.
                    let fresh = self.enter(query, tries > 1)?;
                    earlier = Some(std::mem::replace(&mut ticket, fresh.1));
                    conn = fresh.0;
                }
            }
            tries += 1;
        }
    }

    /// Closes what may lead nowhere; queries that wait are asked again.
    pub(crate) fn reset(&self) {
        self.budget.store(u32::MAX, Ordering::Relaxed);
        for conn in self.pool.lock().drain(..) {
            conn.waiters.close(ExchangeError::failed("the network has changed"));
        }
    }

    /// Puts a query on a connection; `fresh`: on a new one.
    fn enter(&self, query: Query<'_>, fresh: bool) -> Result<(Arc<Conn>, Ticket), ExchangeError> {
        let length = u16::try_from(query.message.len())
            .map_err(|_| ExchangeError::failed("the query is longer than 65535 bytes"))?;
        let mut pool = self.pool.lock();
        loop {
            pool.retain(|conn| !conn.waiters.is_closed());
            let budget = self.budget.load(Ordering::Relaxed);
            let most = if budget < 2 * PIPELINE as u32 { MANY } else { CONNECTIONS };
            let usable = |conn: &&Arc<Conn>| {
                !conn.suspect.load(Ordering::Relaxed) && conn.taken.load(Ordering::Relaxed) < budget
            };
            let best = pool.iter().filter(usable).min_by_key(|conn| conn.waiters.len());
            let room = |best: &Conn| best.waiters.len() < PIPELINE || pool.len() >= most;
            let conn = match best {
                Some(best) if !fresh && room(best) => best.clone(),
                _ => {
                    if pool.len() >= 2 * most {
                        // Make room: the one that has waited longest in vain is the first suspect.
                        let at = pool.iter().position(|c| c.suspect.load(Ordering::Relaxed));
                        pool.remove(at.unwrap_or(0)).waiters.retire();
                    }
                    let (opener, budget) = (self.opener.clone(), self.budget.clone());
                    let conn = Conn::start(opener, budget, query.trail.clone());
                    pool.push(conn.clone());
                    conn
                }
            };
            let ticket = match conn.waiters.enter(query.message) {
                Ok(ticket) => ticket,
                Err(Refused::Closed) => continue,
                Err(Refused::Malformed) => return Err(ExchangeError::failed("malformed query")),
                Err(Refused::Full) => {
                    return Err(ExchangeError::failed("too many queries wait for this server"));
                }
            };
            let mut out = conn.out.lock();
            if out.len() + query.message.len() > BACKLOG {
                return Err(ExchangeError::failed("the server does not read its queries"));
            }
            out.extend_from_slice(&length.to_be_bytes());
            let at = out.len();
            out.extend_from_slice(query.message);
            wire::set_id(&mut out[at..], ticket.id());
            drop(out);
            conn.taken.fetch_add(1, Ordering::Relaxed);
            conn.waiters.driver.wake();
            return Ok((conn, ticket));
        }
    }
}

impl<O> Drop for Streams<O> {
    fn drop(&mut self) {
        self.pool.get_mut().iter().for_each(|conn| conn.waiters.retire());
    }
}

impl Conn {
    /// A connection and the task that opens and serves it. The task ends with the connection: when it is closed or
    /// idle, or retired and everybody has been served.
    fn start<O: Open>(opener: Arc<O>, budget: Arc<AtomicU32>, trail: Trail) -> Arc<Self> {
        let conn = Arc::new(Self {
            waiters: Arc::default(),
            out: Mutex::default(),
            taken: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
        });
        let task = conn.clone();
        tokio::spawn(async move {
            let _close = CloseOnDrop(task.waiters.clone());
            let error = match timeout(OPENING, opener.open(&trail)).await {
                Ok(Ok(stream)) => {
                    let error = task.drive(stream, opener.route()).await;
                    let answered = task.answered.load(Ordering::Relaxed);
                    // One query may have met the end of an idle connection by chance; two have not.
                    if answered > 0 && task.waiters.len() > 1 {
                        budget.fetch_min(answered, Ordering::Relaxed);
                    }
                    error
                }
                Ok(Err(error)) => error.into(),
                Err(_) => ExchangeError::failed(format_args!(
                    "dial tcp {}: i/o timeout",
                    opener.route().target()
                )),
            };
            task.waiters.close(error);
        });
        conn
    }

    /// Moves messages until the connection ends; returns why.
    async fn drive(&self, stream: BoxStream, route: &Route) -> ExchangeError {
        let mut link = Link {
            stream,
            frames: Frames::default(),
            writing: Vec::new(),
            written: 0,
            heard: false,
        };
        let mut watch = pin!(self.watch());
        let end = poll_fn(|cx| {
            if let Poll::Ready(why) = watch.as_mut().poll(cx) {
                return Poll::Ready(why.map_or(Ok(()), Err));
            }
            self.waiters.driver.register(cx.waker());
            if self.waiters.is_closed() {
                return Poll::Ready(Ok(()));
            }
            link.poll(cx, self)
        });
        match end.await {
            Ok(()) => ExchangeError::failed("connection closed"),
            Err(error) => broken(route, "tcp", &error),
        }
    }

    /// Ends when the connection is idle (`None`) or silent while it owes answers.
    async fn watch(&self) -> Option<io::Error> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut answered, mut idle, mut silent) = (0, None::<Instant>, None::<Instant>);
        loop {
            let now = ticks.tick().await;
            let before = std::mem::replace(&mut answered, self.answered.load(Ordering::Relaxed));
            let waiting = self.waiters.len() > 0;
            if answered != before {
                (idle, silent) = (None, None);
            }
            if waiting {
                idle = None;
                if now - *silent.get_or_insert(now) >= SILENCE {
                    return Some(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
                }
            } else {
                silent = None;
                if now - *idle.get_or_insert(now) >= IDLE && self.waiters.close_if_idle() {
                    return None;
                }
            }
        }
    }
}

/// The stream of a connection and what is under way on it.
struct Link {
    stream: BoxStream,
    frames: Frames,
    writing: Vec<u8>,
    written: usize,
    heard: bool,
}

impl Link {
    fn poll(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<io::Result<()>> {
        if let Err(error) = self.poll_write(cx, conn) {
            // What the server has said before it went still counts.
            let _ = self.poll_read(cx, conn);
            return Poll::Ready(Err(error));
        }
        match self.poll_read(cx, conn) {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                if self.heard { "closed by the server" } else { "closed without an answer" },
            ))),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, conn: &Conn) -> io::Result<()> {
        loop {
            if self.written == self.writing.len() {
                self.written = 0;
                self.writing.clear();
                if self.writing.capacity() > READ {
                    self.writing = Vec::new();
                }
                std::mem::swap(&mut self.writing, &mut *conn.out.lock());
                if self.writing.is_empty() {
                    return match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Ready(result) => result,
                        Poll::Pending => Ok(()),
                    };
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.writing[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Returns true at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, conn: &Conn) -> io::Result<bool> {
        SPACE.with_borrow_mut(|space| {
            for _ in 0..BURST {
                let mut buf = ReadBuf::new(space);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => return Ok(false),
                }
                if buf.filled().is_empty() {
                    return Ok(true);
                }
                self.heard = true;
                let sound = self.frames.feed(buf.filled(), |message| {
                    if conn.waiters.deliver(message) {
                        conn.answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
                if !sound {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "not a DNS message"));
                }
            }
            cx.waker().wake_by_ref();
            Ok(false)
        })
    }
}
