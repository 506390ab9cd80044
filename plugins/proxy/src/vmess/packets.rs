//! Datagrams in a connection of VMess: a chunk each, all from and to one peer.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crosspoint_kernel::{
    addr::Target,
    error::DialError,
    flow::{Batch, PacketIo},
};
use tokio::io::AsyncWrite as _;
use tracing::debug;

use super::link::{Broken, Link, Step};

/// See the module.
pub(super) struct Packets {
    link: Link,
    peer: Target,
    /// Datagrams to other peers are dropped, because the format has no place for their names.
    strict: bool,
}

impl Packets {
    /// The client's end: what goes to others than `peer` cannot be carried.
    pub(super) fn client(link: Link, peer: Target) -> Self {
        Self { link, peer, strict: true }
    }

    /// An end that does not look at peers.
    pub(super) fn any(link: Link, peer: Target) -> Self {
        Self { link, peer, strict: false }
    }
}

impl PacketIo for Packets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let before = batch.len();
        loop {
            if batch.is_full() {
                return Poll::Ready(Ok(batch.len() - before));
            }
            match self.link.step(batch.spare())? {
                Step::Again => {}
                Step::Direct(len) => batch.commit(len, self.peer.clone()),
                Step::Held => {
                    batch.push(self.link.held(), self.peer.clone());
                    let len = self.link.held().len();
                    self.link.consume(len);
                }
                Step::Need(_) | Step::End if batch.len() > before => {
                    return Poll::Ready(Ok(batch.len() - before));
                }
                Step::End => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Step::Need(need) => {
                    self.link.poll_alone(cx)?;
                    if ready!(self.link.poll_receive(cx, need))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        // At most one batch is gathered: there is no further one before this one has gone.
        for index in 0..batch.len() {
            let (payload, to) = (batch.payload(index), batch.peer(index));
            if self.strict && *to != self.peer {
                debug!("datagram to {to} dropped: this association is with {}", self.peer);
                continue;
            }
            let made = self.link.emit(|chunks, out| match chunks {
                Some(sealer) if payload.len() <= sealer.most() => {
                    // Without a seal an empty chunk would be the end.
                    if payload.is_empty() && !sealer.has_empty() {
                        return Ok(());
                    }
                    sealer.chunk(payload, out)
                }
                _ => Ok(()),
            });
            made.map_err(Broken::from)?;
        }
        batch.clear();
        ready!(self.link.poll_drain(cx))?;
        Pin::new(&mut self.link.inner).poll_flush(cx)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.link.inner.poll_answer(cx, outcome)
    }
}
