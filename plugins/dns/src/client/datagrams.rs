//! Queries in datagrams: few sockets, many queries, one task for each socket.
//!
//! A socket serves a bounded number of queries for a bounded time, so that the source port changes as well as the
//! id. Lost packets are sent again; a socket that stays silent is replaced, while answers to it still count.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::{
    flow::{Batch, BoxPacketIo, MAX_DATAGRAM},
    relay::{give_batch, take_batch},
    resolve::{ExchangeError, Query, Trail},
};
use parking_lot::Mutex;
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    route::{Route, broken},
    waiters::{CloseOnDrop, Lost, Refused, Ticket, Waiters},
    wire,
};

/// Queries after which a socket is replaced.
const SERVES: u32 = 2048;

/// Time after which a socket is replaced.
const LIFE: Duration = Duration::from_secs(60);

/// Time without queries after which a socket is closed.
const IDLE: Duration = Duration::from_secs(30);

/// When a query is sent again, and what happens then: the sums stay within what resolvers of clients allow.
const WAITS: [(Duration, Next); 5] = [
    (Duration::from_secs(1), Next::Again),
    (Duration::from_secs(2), Next::Elsewhere),
    (Duration::from_secs(2), Next::Again),
    (Duration::from_secs(2), Next::Elsewhere),
    (Duration::from_secs(4), Next::GiveUp),
];

/// Longest time in which an association through a detour must come to be.
const OPENING: Duration = Duration::from_secs(10);

/// How often a query is sent again because the server's port was closed, and how long after: it may be starting.
const REFUSALS: u32 = 4;
const REFUSED_PAUSE: Duration = Duration::from_millis(40);

/// Queries that may wait for one server: each costs memory until it is given up.
const MOST: usize = 65_536;

/// Datagrams that are read at a stretch before other tasks have a turn.
const BURST: usize = 64;

/// Queries that wait to be sent through a detour.
const QUEUE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Send it again.
    Again,
    /// Send it from another socket.
    Elsewhere,
    GiveUp,
}

thread_local! {
    /// Where datagrams are read to and written from. Never held while a task sleeps.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into_boxed_slice());
}

/// The sockets to one server.
pub(crate) struct Datagrams {
    route: Arc<Route>,
    current: Mutex<Option<Arc<Line>>>,
    waiting: AtomicUsize,
}

/// A query that is counted.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One socket or association.
struct Line {
    waiters: Arc<Waiters>,
    wire: Wire,
    born: Instant,
    served: AtomicU32,
}

enum Wire {
    Socket(UdpSocket),
    /// Messages for the task that owns the association.
    Queue(Mutex<Vec<Vec<u8>>>),
}

/// What became of a query.
pub(crate) enum Answer {
    Whole(Vec<u8>),
    /// Query or answer do not fit into a datagram.
    TooLong,
}

impl Datagrams {
    pub(crate) fn new(route: Arc<Route>) -> Self {
        Self { route, current: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Asks the server; sends again what seems lost.
    pub(crate) async fn exchange(&self, query: Query<'_>) -> Result<Answer, ExchangeError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MOST {
            return Err(ExchangeError::failed("too many queries wait for this server"));
        }
        let mut refusals = 0;
        // An answer to an earlier socket still counts.
        let mut earlier: Option<(Arc<Line>, Ticket)> = None;
        let (mut line, mut ticket) = self.enter(query, None).await?;
        let mut waits = WAITS.into_iter();
        let (mut wait, mut next) = waits.next().unwrap_or((IDLE, Next::GiveUp));
        loop {
            match line.send(query.message, ticket.id()).await {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    return Ok(Answer::TooLong);
                }
                // A full queue empties.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(broken(&self.route, "write udp", &error)),
            }
            let answer = poll_fn(|cx| {
                if let Some((_, ticket)) = &earlier
                    && let Poll::Ready(Ok(answer)) = ticket.poll_answer(cx)
                {
                    return Poll::Ready(Ok(answer));
                }
                ticket.poll_answer(cx)
            });
            match timeout(wait, answer).await {
                Ok(Ok(answer)) if wire::is_truncated(&answer) => return Ok(Answer::TooLong),
                Ok(Ok(answer)) => return Ok(Answer::Whole(answer)),
                Ok(Err(Lost { error, closed })) => {
                    refusals += 1;
                    // A detour that is no way now will not be one in a moment.
                    if refusals > REFUSALS || matches!(error, ExchangeError::Dial(_)) {
                        return Err(error);
                    }
                    sleep(REFUSED_PAUSE * (1 << refusals)).await;
                    if closed {
                        (line, ticket) = self.enter(query, Some(&line)).await?;
                    }
                }
                Err(_) => {
                    match next {
                        Next::Again => {}
                        Next::Elsewhere => {
                            let fresh = self.enter(query, Some(&line)).await?;
                            earlier = Some((line, ticket));
                            (line, ticket) = fresh;
                        }
                        Next::GiveUp => {
                            let target = self.route.target();
                            return Err(ExchangeError::failed(format_args!(
                                "no answer from {target} over UDP"
                            )));
                        }
                    }
                    (wait, next) = waits.next().unwrap_or((IDLE, Next::GiveUp));
                }
            }
        }
    }

    /// Closes what may lead nowhere; queries that wait are sent again.
    pub(crate) fn reset(&self) {
        if let Some(line) = self.current.lock().take() {
            line.waiters.close(ExchangeError::failed("the network has changed"));
        }
    }

    /// Puts the query on a line, another one than `not`.
    async fn enter(
        &self,
        query: Query<'_>,
        not: Option<&Arc<Line>>,
    ) -> Result<(Arc<Line>, Ticket), ExchangeError> {
        loop {
            let line = self.line(query.trail, not).await?;
            match line.waiters.enter(query.message) {
                Ok(ticket) => return Ok((line, ticket)),
                Err(Refused::Malformed) => return Err(ExchangeError::failed("malformed query")),
                // Nobody answers: each of its queries costs memory until it is given up.
                Err(Refused::Full) => {
                    return Err(ExchangeError::failed("too many queries wait for this server"));
                }
                // It has just been closed: it is replaced at the next look.
                Err(Refused::Closed) => {}
            }
        }
    }

    async fn line(
        &self,
        trail: &Trail,
        not: Option<&Arc<Line>>,
    ) -> Result<Arc<Line>, ExchangeError> {
        if let Some(line) = &*self.current.lock()
            && !not.is_some_and(|not| Arc::ptr_eq(not, line))
            && line.serves()
        {
            return Ok(line.clone());
        }
        let line = self.open(trail).await?;
        let old = self.current.lock().replace(line.clone());
        old.inspect(|old| old.waiters.retire());
        Ok(line)
    }

    async fn open(&self, trail: &Trail) -> Result<Arc<Line>, ExchangeError> {
        let waiters = Arc::new(Waiters::default());
        let socket = self.route.socket().await.transpose()?;
        let direct = socket.is_some();
        let line = Arc::new(Line {
            waiters,
            wire: socket.map_or_else(|| Wire::Queue(Mutex::default()), Wire::Socket),
            born: Instant::now(),
            served: AtomicU32::new(1),
        });
        // The tasks end with the line: when it is idle, or retired and everybody has been served.
        if direct {
            tokio::spawn(read(line.clone(), self.route.clone()));
        } else {
            tokio::spawn(carry(line.clone(), self.route.clone(), trail.clone()));
        }
        Ok(line)
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Some(line) = self.current.get_mut() {
            line.waiters.retire();
        }
    }
}

impl Line {
    /// Counts a query in, if the line may serve it.
    fn serves(&self) -> bool {
        self.served.fetch_add(1, Ordering::Relaxed) < SERVES
            && self.born.elapsed() < LIFE
            && !self.waiters.is_closed()
    }

    async fn send(&self, query: &[u8], id: u16) -> io::Result<()> {
        match &self.wire {
            Wire::Socket(socket) => {
                let mut refusals = 0;
                loop {
                    match with_id(query, id, |message| socket.try_send(message)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            socket.writable().await?;
                        }
                        // What an earlier packet met is reported here, and this one is not sent.
                        Err(error)
                            if error.kind() == io::ErrorKind::ConnectionRefused && refusals < 2 =>
                        {
                            refusals += 1;
                        }
                        result => return result.map(|_| ()),
                    }
                }
            }
            Wire::Queue(queue) => {
                if query.len() > MAX_DATAGRAM {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                let mut message = query.to_vec();
                wire::set_id(&mut message, id);
                {
                    let mut queue = queue.lock();
                    if queue.len() >= QUEUE {
                        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                    }
                    queue.push(message);
                }
                self.waiters.driver.wake();
                Ok(())
            }
        }
    }
}

/// Errors after which the packet may count as lost.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOBUFS | libc::ENOMEM))
}

/// Calls `send` with the query under another id.
fn with_id<T>(query: &[u8], id: u16, send: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
    SPACE.with_borrow_mut(|space| match space.get_mut(..query.len()) {
        Some(space) => {
            space.copy_from_slice(query);
            wire::set_id(space, id);
            send(space)
        }
        None => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
    })
}

/// Reads answers from a socket as long as the line is of use.
async fn read(line: Arc<Line>, route: Arc<Route>) {
    let Wire::Socket(socket) = &line.wire else { return };
    let _close = CloseOnDrop(line.waiters.clone());
    let mut idle = pin!(idle(&line));
    let mut refused = pin!(refused(&line, &route, socket));
    poll_fn(|cx| {
        line.waiters.driver.register(cx.waker());
        if line.waiters.is_closed() || idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let _ = refused.as_mut().poll(cx);
        SPACE.with_borrow_mut(|space| {
            for _ in 0..BURST {
                match socket.poll_recv_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        line.waiters.close(broken(&route, "read udp", &error));
                        return Poll::Ready(());
                    }
                    Poll::Pending => return Poll::Pending,
                }
                match socket.try_recv(space) {
                    Ok(length) => {
                        line.waiters.deliver(&space[..length]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => line.waiters.nudge(&broken(&route, "read udp", &error)),
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    })
    .await;
}

/// Tells everybody when some packet was refused (an ICMP message): nobody knows which one. Errors do not make a
/// socket readable, so they are waited for by themselves.
async fn refused(line: &Line, route: &Route, socket: &UdpSocket) {
    loop {
        let error = match socket.ready(Interest::ERROR).await {
            // An error that is none clears the readiness.
            Ok(_) => socket.try_io(Interest::ERROR, || {
                let error = socket.take_error()?;
                Err::<(), _>(error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
            }),
            Err(error) => return line.waiters.close(broken(route, "read udp", &error)),
        };
        if let Err(error) = error
            && error.kind() != io::ErrorKind::WouldBlock
        {
            line.waiters.nudge(&broken(route, "read udp", &error));
        }
    }
}

/// Ends when no query has come for a while, and closes the line.
async fn idle(line: &Line) {
    let mut ticks = interval(IDLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = 0;
    loop {
        ticks.tick().await;
        let served = line.served.load(Ordering::Relaxed);
        if served == before && line.waiters.close_if_idle() {
            return;
        }
        before = served;
    }
}

/// Opens an association and moves messages through it as long as the line is of use.
async fn carry(line: Arc<Line>, route: Arc<Route>, trail: Trail) {
    let Wire::Queue(queue) = &line.wire else { return };
    let _close = CloseOnDrop(line.waiters.clone());
    let error = match timeout(OPENING, route.associate(&trail)).await {
        Ok(Ok(io)) => {
            let mut carrier = Carrier { io, queue, line: &line, route: &route };
            let mut idle = pin!(idle(&line));
            match poll_fn(|cx| match idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => carrier.poll(cx),
            })
            .await
            {
                Ok(()) => return,
                Err(error) => broken(&route, "udp", &error),
            }
        }
        Ok(Err(error)) => error.into(),
        Err(_) => ExchangeError::failed(format_args!("dial udp {}: i/o timeout", route.target())),
    };
    line.waiters.close(error);
}

struct Carrier<'a> {
    io: BoxPacketIo,
    queue: &'a Mutex<Vec<Vec<u8>>>,
    line: &'a Line,
    route: &'a Route,
}

impl Carrier<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.waiters.driver.register(cx.waker());
        if self.line.waiters.is_closed() {
            return Poll::Ready(Ok(()));
        }
        let mut batch = take_batch();
        let result = self.poll_send(cx, &mut batch).and_then(|()| {
            batch.clear();
            self.poll_recv(cx, &mut batch)
        });
        give_batch(batch);
        match result {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> io::Result<()> {
        loop {
            batch.clear();
            let mut queue = self.queue.lock();
            let mut taken = 0;
            while let Some(message) = queue.get(taken)
                && batch.push(message, self.route.target().clone())
            {
                taken += 1;
            }
            queue.drain(..taken);
            drop(queue);
            if taken == 0 {
                return Ok(());
            }
            match self.io.poll_send(cx, batch) {
                Poll::Ready(result) => result?,
                // What the association does not take now is lost, as on a full socket: it is sent again later.
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> io::Result<()> {
        for _ in 0..BURST {
            match self.io.poll_recv(cx, batch) {
                Poll::Ready(Ok(_)) => {
                    for index in 0..batch.len() {
                        self.line.waiters.deliver(batch.payload(index));
                    }
                    batch.clear();
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }
}
