//! Queries over UDP.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
};

use crosspoint_kernel::{
    BuildCx,
    addr::Target,
    component::Fault,
    flow::Batch,
    net::{
        listen::Bound,
        udp::{Back, SharedUdp},
    },
    relay::{give_batch, take_batch},
    resolve::{Ask, NO_TRAIL, Resolve},
    session::{Network, Session},
};
use crosspoint_resolver::serve::{Desk, PATIENCE, Reply, wire};
use tokio::{net::UdpSocket, time::timeout};
use tracing::{error, warn};

/// Queries that may wait for their answers at a time. Further ones fail at once, so that those whose answer is at hand
/// are never in their way.
const WAITING: usize = 4096;

/// Bytes of them.
const WAITING_BYTES: usize = 4 << 20;

/// Batches that are moved before other tasks get their turn.
const TURNS: u32 = 8;

/// Errors in a row after which the socket counts as broken. Most are about clients that are gone.
const ERRORS: u32 = 64;

/// Who gets an answer, and how long it may be.
struct Asker {
    peer: Target,
    back: Back,
    limit: usize,
}

/// Answers until the instance is cancelled; what was asked before is answered still.
pub(super) async fn serve(socket: Bound<UdpSocket>, cx: &BuildCx) -> Result<(), Fault> {
    let fault = |what: &str, error: io::Error| Fault(format!("{what}: {error}"));
    socket.tune().map_err(|e| fault("set options of the socket", e))?;
    let local = socket.local_addr().map_err(|e| fault("address of the socket", e))?;
    let udp = SharedUdp::on(socket.clone()).map_err(|e| fault("prepare the socket", e))?;
    let mut server = Server {
        cx,
        local,
        socket: socket.clone(),
        udp,
        desk: Desk::default(),
        answer: Vec::new(),
        backs: Vec::new(),
        out_backs: Vec::new(),
        full: false,
    };
    let mut cancelled = pin!(cx.cancel.cancelled());
    let mut beat = pin!(cx.pulse.beat());
    let mut errors = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut cancelled => break,
            () = &mut beat => beat.set(cx.pulse.beat()),
            reply = server.desk.reply() => server.finish(reply).await.map_err(|e| fault("send", e))?,
            ready = server.udp.readable() => {
                ready.map_err(|e| fault("receive", e))?;
                match server.receive().await {
                    Ok(()) => errors = 0,
                    Err(_) if errors < ERRORS => errors += 1,
                    Err(error) => return Err(fault("receive", error)),
                }
            }
        }
    }
    Ok(())
}

/// An instance that ends, in whatever way, leaves answers under way to a task of their own.
impl Drop for Server<'_> {
    fn drop(&mut self) {
        let desk = std::mem::take(&mut self.desk);
        // Without a runtime the program ends.
        if let (false, Ok(runtime)) = (desk.is_empty(), tokio::runtime::Handle::try_current()) {
            let socket = self.socket.clone();
            // Not in time: those clients ask again, and somebody else answers them.
            runtime.spawn(timeout(PATIENCE, drain(desk, socket)));
        }
    }
}

/// Answers what waits.
async fn drain(mut desk: Desk<'static, Asker>, socket: Arc<UdpSocket>) -> io::Result<()> {
    let udp = SharedUdp::on(socket)?;
    while !desk.is_empty() {
        let reply = desk.reply().await;
        let Some(mut answer) = reply.message else { continue };
        let Asker { peer, back, limit } = reply.key;
        let end = wire::truncate(&mut answer, limit);
        let mut out = take_batch();
        out.push(&answer[..end], peer);
        let sent = udp.send(&mut out, &mut vec![back]).await;
        give_batch(out);
        sent?;
    }
    Ok(())
}

struct Server<'a> {
    cx: &'a BuildCx,
    local: SocketAddr,
    socket: Arc<UdpSocket>,
    udp: SharedUdp,
    desk: Desk<'static, Asker>,
    /// The answer that is being made.
    answer: Vec<u8>,
    backs: Vec<Back>,
    out_backs: Vec<Back>,
    /// Whether it was said that too many queries wait.
    full: bool,
}

impl Server<'_> {
    /// Takes the queries that have come and sends the answers that are at hand.
    async fn receive(&mut self) -> io::Result<()> {
        for _ in 0..TURNS {
            let mut batch = take_batch();
            self.backs.clear();
            let received = self.udp.try_recv(&mut batch, &mut self.backs);
            if let Err(error) = received {
                give_batch(batch);
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    _ => Err(error),
                };
            }
            let mut out = take_batch();
            // The configuration in force at this moment.
            let resolver = self.cx.plane.resolver();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                for at in 0..batch.len() {
                    self.query(&resolver, &batch, at, &mut out);
                }
            }));
            give_batch(batch);
            if caught.is_err() {
                error!(component = %self.cx.me, "the resolver panicked over a query");
            }
            self.send(out).await?;
            self.collect().await?;
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Takes one query: its answer goes into `out`, or is waited for.
    fn query(&mut self, resolver: &Arc<dyn Resolve>, batch: &Batch, at: usize, out: &mut Batch) {
        let (message, peer) = (batch.payload(at), batch.peer(at));
        let Some(heard) = wire::hear(message) else { return };
        let back = self.backs.get(at).copied().unwrap_or_default();
        self.answer.clear();
        let ask = Ask { message, session: None, server: None, trail: &NO_TRAIL };
        if resolver.exchange_now(ask, &mut self.answer) {
            let end = wire::truncate(&mut self.answer, heard.datagram);
            out.push(&self.answer[..end], peer.clone());
            self.out_backs.push(back);
        } else if self.desk.len() >= WAITING || self.desk.bytes() >= WAITING_BYTES {
            if !std::mem::replace(&mut self.full, true) {
                warn!(component = %self.cx.me, "{} queries wait: more fail", self.desk.len());
            }
            out.push(&wire::failure(message), peer.clone());
            self.out_backs.push(back);
        } else {
            let Some(source) = peer.socket_addr() else { return };
            let id = self.cx.plane.ledger.next_id();
            let me = self.cx.me.clone();
            let session = Session::new(id, me, Network::Udp, source, self.local.into());
            let asker = Asker { peer: peer.clone(), back, limit: heard.datagram };
            self.desk.ask(resolver.clone(), session, message, asker);
        }
    }

    /// Sends an answer that was waited for, and those that are there with it.
    async fn finish(&mut self, reply: Reply<Asker>) -> io::Result<()> {
        let mut out = take_batch();
        self.put(reply, &mut out);
        self.gather(&mut out);
        self.send(out).await
    }

    /// Sends answers that are there already.
    async fn collect(&mut self) -> io::Result<()> {
        let mut out = take_batch();
        self.gather(&mut out);
        self.send(out).await
    }

    /// Puts answers that are there into `out`.
    fn gather(&mut self, out: &mut Batch) {
        while !out.is_full()
            && !self.desk.is_empty()
            && let Some(reply) = self.desk.try_reply()
        {
            self.put(reply, out);
        }
        self.full &= self.desk.len() >= WAITING / 2;
    }

    fn put(&mut self, reply: Reply<Asker>, out: &mut Batch) {
        let Some(mut answer) = reply.message else { return };
        let Asker { peer, back, limit } = reply.key;
        let end = wire::truncate(&mut answer, limit);
        out.push(&answer[..end], peer);
        self.out_backs.push(back);
    }

    async fn send(&mut self, mut out: Batch) -> io::Result<()> {
        let result = match out.is_empty() {
            true => Ok(()),
            false => self.udp.send(&mut out, &mut self.out_backs).await,
        };
        self.out_backs.clear();
        give_batch(out);
        result
    }
}
