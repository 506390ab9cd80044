//! One session that all queries share (HTTP/2, HTTP/3, DNS over QUIC): opened by a task of its own, replaced when it
//! is closed or silent.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture,
    resolve::{ExchangeError, Trail},
};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::wire::{self, Asked};

/// Time without queries after which a session is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Time for dial and handshakes.
const OPENING: Duration = Duration::from_secs(10);

/// How long a query waits before it is asked in a session of its own as well.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest time for a query, whatever happens.
const LIMIT: Duration = Duration::from_secs(20);

/// Queries that may wait in one session.
const MOST: usize = 8192;

/// A session that stands, and the work that keeps it so.
pub(crate) struct Opened<S> {
    /// What queries are asked with.
    pub(crate) session: S,
    /// Ends when the session does, with the reason.
    pub(crate) work: BoxFuture<'static, ExchangeError>,
}

/// Opens sessions.
pub(crate) trait OpenSession: Send + Sync + 'static {
    /// What queries are asked with.
    type Session: Clone + Send + Sync + 'static;

    /// Dials and does all handshakes.
    fn open<'a>(
        &'a self,
        trail: &'a Trail,
    ) -> BoxFuture<'a, Result<Opened<Self::Session>, ExchangeError>>;
}

/// A query that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: ExchangeError,
    /// Another session may do better.
    pub(crate) again: bool,
}

impl Failed {
    /// The session is of no use (any more).
    pub(crate) fn again(why: impl std::fmt::Display) -> Self {
        Self { error: ExchangeError::failed(why), again: true }
    }

    /// The server has spoken.
    pub(crate) fn finally(why: impl std::fmt::Display) -> Self {
        Self { error: ExchangeError::failed(why), again: false }
    }
}

/// A query in a stream of its own: the id is 0, as caches of HTTP like it (RFC 8484 §4.1) and DoQ wants it
/// (RFC 9250 §4.2.1).
pub(crate) struct Post {
    pub(crate) body: Vec<u8>,
    id: u16,
    asked: Asked,
}

impl Post {
    /// # Errors
    /// It is no query.
    pub(crate) fn new(query: &[u8]) -> Result<Self, ExchangeError> {
        let mut asked = Asked::default();
        if !asked.note(query) {
            return Err(ExchangeError::failed("malformed query"));
        }
        let mut body = query.to_vec();
        wire::set_id(&mut body, 0);
        Ok(Self { body, id: wire::id(query), asked })
    }

    /// The answer, under the id of the asker.
    pub(crate) fn answer(&self, mut body: Vec<u8>) -> Result<Vec<u8>, Failed> {
        if !self.asked.is_answered_by(&body) {
            return Err(Failed::finally("the answer does not match the query"));
        }
        wire::set_id(&mut body, self.id);
        Ok(body)
    }
}

/// The sessions with one server: mostly one.
pub(crate) struct Sessions<O: OpenSession> {
    opener: Arc<O>,
    current: Mutex<Option<Arc<Link<O::Session>>>>,
}

#[derive(Clone)]
enum State<S> {
    Opening,
    Open(S),
    Closed(ExchangeError),
}

struct Link<S> {
    state: watch::Sender<State<S>>,
    waiting: AtomicUsize,
    served: AtomicU64,
    /// No new queries: ends with the last answer.
    retired: Notify,
    end: Notify,
}

/// Ends a link with its task, in whatever way that ends.
struct Ending<S>(Arc<Link<S>>);

impl<S> Drop for Ending<S> {
    fn drop(&mut self) {
        self.0.state.send_if_modified(|state| {
            let open = !matches!(state, State::Closed(_));
            if open {
                *state = State::Closed(ExchangeError::failed("session closed"));
            }
            open
        });
    }
}

impl<S: Clone + Send + Sync + 'static> Link<S> {
    fn start<O: OpenSession<Session = S>>(opener: Arc<O>, trail: Trail) -> Arc<Self> {
        let link = Arc::new(Self {
            state: watch::Sender::new(State::Opening),
            waiting: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            retired: Notify::new(),
            end: Notify::new(),
        });
        let task = Ending(link.clone());
        tokio::spawn(async move {
            let error = select! {
                opened = timeout(OPENING, opener.open(&trail)) => match opened {
                    Ok(Ok(Opened { session, work })) => {
                        task.0.state.send_replace(State::Open(session));
                        drop(opener);
                        select! {
                            error = work => error,
                            () = task.0.idle() => ExchangeError::failed("session closed"),
                            () = task.0.end.notified() => ExchangeError::failed("the network has changed"),
                        }
                    }
                    Ok(Err(error)) => error,
                    Err(_) => ExchangeError::failed("no session within the time allowed"),
                },
                () = task.0.end.notified() => ExchangeError::failed("the network has changed"),
            };
            task.0.state.send_replace(State::Closed(error));
        });
        link
    }

    /// Ends when nobody has asked for a while, or the link is retired and everybody has been served.
    async fn idle(&self) {
        let mut before = u64::MAX;
        let mut retired = false;
        loop {
            let free = self.waiting.load(Ordering::Relaxed) == 0;
            let served = self.served.load(Ordering::Relaxed);
            if free && (retired || served == before) {
                return;
            }
            before = served;
            select! {
                () = self.retired.notified() => retired = true,
                () = sleep(if retired { IDLE / 30 } else { IDLE }) => {}
            }
        }
    }

    fn is_closed(&self) -> bool {
        matches!(&*self.state.borrow(), State::Closed(_))
    }

    async fn session(&self) -> Result<S, Failed> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Open(session) => return Ok(session.clone()),
                State::Closed(error) => {
                    // A session that ended while nobody looked; a dial that failed is a failure of all who waited.
                    let again = !matches!(error, ExchangeError::Dial(_));
                    return Err(Failed { error: error.clone(), again });
                }
                State::Opening => {}
            }
            if state.changed().await.is_err() {
                return Err(Failed::again("session closed"));
            }
        }
    }

    async fn ask<F>(self: Arc<Self>, ask: impl FnOnce(S) -> F) -> Result<Vec<u8>, Failed>
    where
        F: Future<Output = Result<Vec<u8>, Failed>>,
    {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MOST {
            return Err(Failed::finally("too many queries wait for this server"));
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        let session = self.session().await?;
        ask(session).await
    }
}

impl<O: OpenSession> Sessions<O> {
    pub(crate) fn new(opener: O) -> Self {
        Self { opener: Arc::new(opener), current: Mutex::default() }
    }

    /// Asks in the session of all; in another one as well if that one is closed or silent.
    pub(crate) async fn exchange<F>(
        &self,
        trail: &Trail,
        ask: impl Fn(O::Session) -> F,
    ) -> Result<Vec<u8>, ExchangeError>
    where
        F: Future<Output = Result<Vec<u8>, Failed>>,
    {
        let work = async {
            let link = self.link(trail, None);
            let mut first = pin!(link.clone().ask(&ask));
            match timeout(PATIENCE, &mut first).await {
                Ok(Err(Failed { again: true, .. })) => {
                    self.link(trail, Some(&link)).ask(&ask).await
                }
                Ok(result) => result,
                Err(_) => {
                    let mut second = pin!(self.link(trail, Some(&link)).ask(&ask));
                    // The first answer wins; a failure leaves the other one its chance.
                    select! {
                        biased;
                        result = &mut first => match result {
                            Ok(answer) => Ok(answer),
                            Err(_) => second.await,
                        },
                        result = &mut second => match result {
                            Ok(answer) => Ok(answer),
                            Err(_) => first.await,
                        },
                    }
                }
            }
        };
        match timeout(LIMIT, work).await {
            Ok(result) => result.map_err(|failed| failed.error),
            Err(_) => Err(ExchangeError::failed("no answer")),
        }
    }

    /// Closes what may lead nowhere; queries that wait are asked again.
    pub(crate) fn reset(&self) {
        if let Some(link) = self.current.lock().take() {
            link.end.notify_one();
        }
    }

    /// The session of all, another one than `not`; opened if there is none.
    fn link(&self, trail: &Trail, not: Option<&Arc<Link<O::Session>>>) -> Arc<Link<O::Session>> {
        let mut current = self.current.lock();
        if let Some(link) = &*current
            && !link.is_closed()
            && !not.is_some_and(|not| Arc::ptr_eq(not, link))
        {
            return link.clone();
        }
        let link = Link::start(self.opener.clone(), trail.clone());
        if let Some(old) = current.replace(link.clone()) {
            old.retired.notify_one();
        }
        link
    }
}

impl<O: OpenSession> Drop for Sessions<O> {
    fn drop(&mut self) {
        if let Some(link) = self.current.get_mut() {
            link.retired.notify_one();
        }
    }
}
