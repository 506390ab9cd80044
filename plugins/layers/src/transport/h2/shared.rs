//! What is known of a connection outside of its task.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// What is known of a connection outside of its task.
#[derive(Debug)]
pub(super) struct Shared {
    born: Instant,
    /// Milliseconds from `born` to the last time that something was read.
    heard: AtomicU64,
    /// Streams in use.
    streams: AtomicUsize,
    /// Bytes of all streams that were read by their protocols.
    consumed: AtomicU64,
    over: AtomicBool,
    /// Local address of the socket below.
    pub(super) local: Option<SocketAddr>,
}

impl Shared {
    pub(super) fn new(local: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            heard: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            consumed: AtomicU64::new(0),
            over: AtomicBool::new(false),
            local,
        })
    }

    /// Something was read from the peer.
    pub(super) fn hear(&self) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(millis, Ordering::Relaxed);
    }

    /// When something was last read.
    pub(super) fn heard(&self) -> Instant {
        self.born + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Streams in use.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Bytes that protocols have read.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// The connection takes no more streams.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether it takes no more streams.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// A place on a connection, held as long as the stream lives.
#[derive(Debug)]
pub(in crate::transport) struct Seat(Arc<Shared>);

impl Seat {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }

    /// Counts bytes that the protocol has read.
    pub(super) fn consume(&self, n: usize) {
        self.0.consumed.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
