//! Queries that wait for their answers.

use std::{
    cell::Cell,
    ops::Deref,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crosspoint_kernel::{
    resolve::{Ask, NO_TRAIL, Resolve, ResolveError},
    session::Session,
};
use futures_util::{FutureExt, Stream, stream::FuturesUnordered};
use tracing::{debug, error};

use super::{PATIENCE, wire};

/// A query that has its answer.
#[derive(Debug)]
pub struct Reply<K> {
    /// Whatever was given with the query: who gets the answer.
    pub key: K,
    /// The answer; `None` when the client is to get none.
    pub message: Option<Vec<u8>>,
    /// Length of the query in bytes.
    pub cost: usize,
}

type Work<'a, K> = Pin<Box<dyn Future<Output = Reply<K>> + Send + 'a>>;

/// Queries under way, all of them in the task that polls this.
pub struct Desk<'a, K> {
    waiting: FuturesUnordered<Work<'a, K>>,
    /// Bytes of the queries that wait.
    bytes: usize,
}

impl<K> std::fmt::Debug for Desk<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<K> Default for Desk<'_, K> {
    fn default() -> Self {
        Self { waiting: FuturesUnordered::new(), bytes: 0 }
    }
}

impl<'a, K: Send + 'a> Desk<'a, K> {
    /// How many queries wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the queries that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Asks `resolver`. The answer comes from [`Desk::poll_reply`].
    pub fn ask<S>(&mut self, resolver: Arc<dyn Resolve>, session: S, message: &[u8], key: K)
    where
        S: Deref<Target = Session> + Send + Sync + 'a,
    {
        let message: Box<[u8]> = message.into();
        let cost = message.len();
        self.bytes += cost;
        self.waiting.push(Box::pin(async move {
            Reply { key, message: answer(&*resolver, &session, &message).await, cost }
        }));
    }

    /// The next answer; pending also when nothing is asked.
    pub fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Reply<K>> {
        match Pin::new(&mut self.waiting).poll_next(cx) {
            Poll::Ready(Some(reply)) => {
                self.bytes = self.bytes.saturating_sub(reply.cost);
                Poll::Ready(reply)
            }
            _ => Poll::Pending,
        }
    }

    /// The next answer, if it is there. The others are polled again by whoever waits next.
    pub fn try_reply(&mut self) -> Option<Reply<K>> {
        match self.poll_reply(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Some(reply),
            Poll::Pending => None,
        }
    }

    /// The next answer; waits for ever when nothing is asked.
    pub async fn reply(&mut self) -> Reply<K> {
        std::future::poll_fn(|cx| self.poll_reply(cx)).await
    }
}

/// The answer to one query, or `None` when the client is to get none.
async fn answer(resolver: &dyn Resolve, session: &Session, message: &[u8]) -> Option<Vec<u8>> {
    let ask = Ask { message, session: Some(session), server: None, trail: &NO_TRAIL };
    // A panic over one query must not take the others with it.
    let asked = AssertUnwindSafe(async { resolver.exchange(ask).await }).catch_unwind();
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Ok(answer))) => Some(answer),
        Ok(Ok(Err(ResolveError::Dropped))) => None,
        Ok(Ok(Err(error))) => {
            debug!(conn = session.id, "DNS query of {}: {error}", session.source);
            Some(wire::failure(message))
        }
        Ok(Err(_)) => {
            error!(conn = session.id, "DNS query of {}: the resolver panicked", session.source);
            Some(wire::failure(message))
        }
        Err(_) => {
            debug!(conn = session.id, "DNS query of {}: no answer in time", session.source);
            Some(wire::failure(message))
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's buffer, empty.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}
