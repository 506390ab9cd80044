//! Queries in datagrams.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use crosspoint_kernel::{
    addr::Target,
    flow::{Batch, BoxPacketIo},
    relay::{give_batch, take_batch},
    resolve::{Ask, NO_TRAIL},
    session::Session,
    snapshot::Plane,
};
use tokio::time::{Instant, Sleep};

use super::{Desk, IDLE, PATIENCE, desk::with_scratch, wire};

/// Queries of one client that may wait; then nothing is received until one is answered.
const WAITING: usize = 256;

/// Bytes of them.
const WAITING_BYTES: usize = 256 * 1024;

/// Batches that are moved before other tasks get their turn.
const TURNS: u32 = 8;

/// Answers the queries in the datagrams of a client until it has been silent for [`IDLE`]. Answers come from the
/// address that was asked.
///
/// # Errors
/// The association broke.
pub async fn packets(client: BoxPacketIo, session: &Session, plane: &Plane) -> io::Result<()> {
    let mut server = Server {
        client,
        session,
        plane,
        desk: Desk::default(),
        held: None,
        last: Instant::now(),
        timer: Box::pin(tokio::time::sleep(IDLE)),
    };
    poll_fn(|cx| server.poll(cx)).await
}

struct Server<'a> {
    client: BoxPacketIo,
    session: &'a Session,
    plane: &'a Plane,
    desk: Desk<'a, (Target, usize)>,
    /// Answers that the socket has not taken yet.
    held: Option<Batch>,
    /// When a query came or an answer left.
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Server<'_> {
    /// Goes on until there is nothing to do. Ready when the association has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            let mut out = self.held.take().unwrap_or_else(take_batch);
            let mut busy = false;
            if out.is_empty() {
                busy = match self.receive(cx, &mut out) {
                    Ok(busy) => busy,
                    Err(error) => {
                        give_batch(out);
                        return Poll::Ready(match error.kind() {
                            io::ErrorKind::UnexpectedEof => Ok(()),
                            _ => Err(error),
                        });
                    }
                };
                self.collect(cx, &mut out);
            }
            if !out.is_empty() {
                busy = true;
                match self.client.poll_send(cx, &mut out) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        give_batch(out);
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => {
                        self.held = Some(out);
                        return self.poll_idle(cx);
                    }
                }
            }
            give_batch(out);
            if !busy {
                return self.poll_idle(cx);
            }
            self.last = Instant::now();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes queries; answers go into `out` or are waited for. Returns whether any came.
    fn receive(&mut self, cx: &mut Context<'_>, out: &mut Batch) -> io::Result<bool> {
        if self.desk.len() >= WAITING || self.desk.bytes() >= WAITING_BYTES {
            return Ok(false);
        }
        let mut batch = take_batch();
        let received = self.client.poll_recv(cx, &mut batch);
        if let Poll::Ready(Ok(_)) = received {
            let resolver = self.plane.resolver();
            with_scratch(|answer| {
                for at in 0..batch.len() {
                    let (message, peer) = (batch.payload(at), batch.peer(at));
                    let Some(heard) = wire::hear(message) else { continue };
                    answer.clear();
                    let session = Some(self.session);
                    let ask = Ask { message, session, server: None, trail: &NO_TRAIL };
                    if resolver.exchange_now(ask, answer) {
                        let end = wire::truncate(answer, heard.datagram);
                        out.push(&answer[..end], peer.clone());
                    } else {
                        let key = (peer.clone(), heard.datagram);
                        self.desk.ask(resolver.clone(), self.session, message, key);
                    }
                }
            });
        }
        give_batch(batch);
        match received {
            Poll::Pending => Ok(false),
            Poll::Ready(result) => result.map(|_| true),
        }
    }

    /// Takes answers that are there.
    fn collect(&mut self, cx: &mut Context<'_>, out: &mut Batch) {
        while !out.is_full()
            && let Poll::Ready(reply) = self.desk.poll_reply(cx)
        {
            if let Some(mut answer) = reply.message {
                let (peer, limit) = reply.key;
                let end = wire::truncate(&mut answer, limit);
                out.push(&answer[..end], peer);
            }
        }
    }

    /// Ready when nothing has happened for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is waited for has a limit of its own.
        let limit = if self.desk.is_empty() { IDLE } else { PATIENCE + IDLE };
        // As in relays the timer is set again only when it expires.
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.last + limit;
            if due <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
            self.timer.as_mut().reset(due.min(Instant::now() + IDLE));
        }
        Poll::Pending
    }
}
