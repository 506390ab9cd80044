//! Both directions of a datagram association in one future.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{End, Peer, give_batch, take_batch};
use crate::{
    flow::{BATCH, Batch, BoxPacketIo},
    ledger::Entry,
};

/// Batches that one direction moves before other tasks get their turn.
const TURNS: u32 = 8;

/// Moves datagrams until both sides would block. Leaves in `held` what the sink did not take: nothing
/// more is received then, so that the queue in front of us drops the newest.
///
/// Never ready but with a failure; sets `active` when a datagram moved.
fn poll_way(
    cx: &mut Context<'_>,
    held: &mut Option<Batch>,
    source: &mut BoxPacketIo,
    sink: &mut BoxPacketIo,
    (bytes, packets): (&AtomicU64, &AtomicU64),
    active: &mut bool,
) -> Poll<Result<(), (bool, io::Error)>> {
    if let Some(batch) = held {
        ready!(sink.poll_send(cx, batch)).map_err(|error| (false, error))?;
        held.take().into_iter().for_each(give_batch);
    }
    let mut batch = take_batch();
    for _ in 0..TURNS {
        match source.poll_recv(cx, &mut batch) {
            Poll::Pending => {
                give_batch(batch);
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => {
                give_batch(batch);
                return Poll::Ready(Err((true, error)));
            }
            Poll::Ready(Ok(_)) => {}
        }
        *active = true;
        // Before the sink may change it.
        let moved: usize = (0..batch.len().min(BATCH)).map(|i| batch.payload(i).len()).sum();
        bytes.fetch_add(moved as u64, Ordering::Relaxed);
        packets.fetch_add(batch.len().min(BATCH) as u64, Ordering::Relaxed);
        match sink.poll_send(cx, &mut batch) {
            Poll::Pending => {
                *held = Some(batch);
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => batch.clear(),
            Poll::Ready(Err(error)) => {
                give_batch(batch);
                return Poll::Ready(Err((false, error)));
            }
        }
    }
    give_batch(batch);
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Moves datagrams between a client and a server until one side fails, nothing moved for `timeout`,
/// or the association is cut. An end of file of either side is the proper end of an association.
pub async fn packets(
    mut client: BoxPacketIo,
    mut server: BoxPacketIo,
    entry: &Entry,
    timeout: Duration,
) -> End {
    let (mut up, mut down) = (None, None);
    let counters = ((&entry.up, &entry.up_packets), (&entry.down, &entry.down_packets));
    let mut last = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(last + timeout));
    poll_fn(|cx| {
        if let Poll::Ready(cut) = entry.poll_cut(cx) {
            return Poll::Ready(End::Cut(cut));
        }
        let mut active = false;
        let (c, s) = (&mut client, &mut server);
        for (way, near, far) in [
            (poll_way(cx, &mut up, c, s, counters.0, &mut active), Peer::Client, Peer::Server),
            (poll_way(cx, &mut down, s, c, counters.1, &mut active), Peer::Server, Peer::Client),
        ] {
            if let Poll::Ready(Err((source, error))) = way {
                return Poll::Ready(match error.kind() {
                    io::ErrorKind::UnexpectedEof => End::Closed,
                    _ => End::Failed(if source { near } else { far }, error),
                });
            }
        }
        // The timer is not moved for every packet: when it expires, it is set to the time at which
        // the association will have idled long enough.
        if active {
            last = Instant::now();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let due = last + timeout;
            if due <= Instant::now() {
                return Poll::Ready(End::Idle(timeout));
            }
            Pin::as_mut(&mut timer).reset(due);
        }
        Poll::Pending
    })
    .await
}
