//! What happens to connections when a group goes over to another member.
//!
//! Connections of clients are cut by the ledger if `interrupt_exist_connections` says so (the reference means to and
//! does not: parity/semantics.md §5.7). Connections of our own (DNS, tests, services) are always cut: they are made
//! anew at the next use.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crosspoint_kernel::component::{BuildCx, Incarnation};
use crosspoint_kernel::flow::{Batch, BoxPacketIo, BoxStream, PacketIo, Stream};
use crosspoint_kernel::ledger::{Cut, Ledger};
use crosspoint_kernel::session::Network;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Cuts the connections of one group.
pub(crate) struct Interrupt {
    me: Arc<Incarnation>,
    ledger: Ledger,
    /// Cancelled and renewed with every change.
    internal: Mutex<CancellationToken>,
}

impl Interrupt {
    pub(crate) fn new(cx: &BuildCx) -> Self {
        Self { me: cx.me.clone(), ledger: cx.plane.ledger.clone(), internal: Mutex::default() }
    }

    /// The group has gone over to `member`, for one network or for both. `clients`: cut theirs as well.
    pub(crate) fn switched(&self, member: &str, network: Option<Network>, clients: bool) {
        std::mem::take(&mut *self.internal.lock()).cancel();
        if clients {
            self.ledger.cut_where(Cut::Switched, |entry| {
                network.is_none_or(|network| entry.network == network)
                    && self.elsewhere(&entry.hops(), member)
            });
        }
    }

    /// Whether the way leads through this group to another member.
    fn elsewhere(&self, hops: &[Arc<Incarnation>], member: &str) -> bool {
        let mut hops = hops.iter();
        let mine = |hop: &&Arc<Incarnation>| (hop.kind, &hop.tag) == (self.me.kind, &self.me.tag);
        hops.find(mine).is_some()
            && hops.next().is_some_and(|next: &Arc<Incarnation>| *next.tag != *member)
    }

    /// A stream of our own that ends when the group changes. Take the token before the dial.
    pub(crate) fn token(&self) -> CancellationToken {
        self.internal.lock().clone()
    }
}

/// Ends with its token.
pub(crate) struct Ending<T> {
    inner: T,
    /// Made at the first use.
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
}

pub(crate) fn ending_stream(inner: BoxStream, token: CancellationToken) -> BoxStream {
    Box::new(Ending { inner, wait: Box::pin(token.cancelled_owned()) })
}

pub(crate) fn ending_packets(inner: BoxPacketIo, token: CancellationToken) -> BoxPacketIo {
    Box::new(Ending { inner, wait: Box::pin(token.cancelled_owned()) })
}

impl<T> Ending<T> {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.wait.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "group switched"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Ending<BoxStream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ending<BoxStream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Stream for Ending<BoxStream> {}

impl PacketIo for Ending<BoxPacketIo> {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        self.inner.poll_recv(cx, batch)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.inner.poll_send(cx, batch)
    }
}

#[cfg(test)]
mod tests {
    use crosspoint_kernel::{Kind, Tag};

    use super::*;

    fn life(tag: &str) -> Arc<Incarnation> {
        Arc::new(Incarnation {
            kind: Kind::Outbound,
            type_name: "x",
            tag: Tag::from(tag),
            epoch: 1,
        })
    }

    #[test]
    fn knows_what_goes_elsewhere() {
        let group =
            Interrupt { me: life("g"), ledger: Ledger::default(), internal: Mutex::default() };
        for (way, elsewhere) in [
            (&["g", "a"][..], false),
            (&["g", "b"], true),
            (&["outer", "g", "b", "a"], true),
            (&["a"], false),
            (&["g"], false),
            (&["b", "g"], false),
        ] {
            let hops: Vec<_> = way.iter().map(|tag| life(tag)).collect();
            assert_eq!(group.elsewhere(&hops, "a"), elsewhere, "{way:?}");
        }
    }
}
