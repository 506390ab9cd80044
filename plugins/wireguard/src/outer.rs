//! What carries the datagrams of a tunnel: a socket of our own, or an association through another outbound.

use std::{collections::VecDeque, future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll};

use arc_swap::ArcSwapOption;
use crosspoint_kernel::{
    addr::Target,
    component::{BuildCx, Dial},
    flow::{Batch, BoxPacketIo},
    net::{
        buffers,
        dial::Dialer,
        udp::{Back, SharedUdp},
    },
    relay::{give_batch, take_batch},
};
use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::Notify};

/// Bytes that the system may hold in each direction, as wireguard-go asks for: flows inside send in bursts.
const BUFFER: usize = 7 * 1024 * 1024;
/// Bytes that may wait for the socket; what comes beyond is dropped.
const WAITING: usize = 1024 * 1024;

/// Messages of one size that wait for the socket.
struct Run {
    to: SocketAddr,
    bytes: Vec<u8>,
    size: usize,
}

/// Messages that wait for the socket.
#[derive(Default)]
struct Waiting {
    runs: VecDeque<Run>,
    bytes: usize,
}

/// The sending half. Never waits.
pub(crate) struct Outer {
    /// `None` through another outbound, and when it was closed.
    socket: ArcSwapOption<SharedUdp>,
    waiting: Mutex<Waiting>,
    more: Notify,
}

/// The receiving half, which also sends what had to wait.
pub(crate) enum Receiver {
    /// On a socket.
    Socket(Box<SharedUdp>),
    /// Through another outbound, which is dialled again when it breaks.
    Dialled(Box<Dialer>),
}

/// Takes messages, with the addresses that they came from.
pub(crate) trait Sink {
    /// Takes all of the batch, or leaves what is of no use. Waits when there is too much to do: then the system
    /// holds what comes.
    fn take(&mut self, batch: &mut Batch) -> impl Future<Output = ()> + Send;
}

/// Opens what carries the datagrams.
///
/// # Errors
/// The system refuses the socket.
pub(crate) async fn open(
    dialer: Dialer,
    detour: bool,
    port: u16,
) -> Result<(Arc<Outer>, Receiver), crosspoint_kernel::DialError> {
    let outer = |socket| {
        let socket = ArcSwapOption::from_pointee(socket);
        Arc::new(Outer { socket, waiting: Mutex::default(), more: Notify::new() })
    };
    if detour {
        return Ok((outer(None), Receiver::Dialled(Box::new(dialer))));
    }
    let socket: Arc<UdpSocket> = Arc::new(dialer.udp_listen(port).await?);
    buffers(&*socket, BUFFER);
    let receiver = Box::new(SharedUdp::on(socket.clone())?);
    Ok((outer(Some(SharedUdp::on(socket)?)), Receiver::Socket(receiver)))
}

impl Outer {
    /// One that leads nowhere: what is sent waits in it.
    pub(crate) fn detached() -> Arc<Self> {
        let socket = ArcSwapOption::empty();
        Arc::new(Self { socket, waiting: Mutex::default(), more: Notify::new() })
    }

    /// Takes what waits: where to, messages one behind the other, and their size.
    pub(crate) fn taken(&self) -> Vec<(SocketAddr, Vec<u8>, usize)> {
        std::iter::from_fn(|| self.next()).map(|run| (run.to, run.bytes, run.size)).collect()
    }

    /// Sends messages of `size` bytes that lie one behind the other; the last one may be shorter. What the socket does
    /// not take at once waits its turn, within limits.
    pub(crate) fn send(&self, to: SocketAddr, messages: &[u8], size: usize) {
        let mut waiting = self.waiting.lock();
        let sent = match &*self.socket.load() {
            Some(socket) if waiting.runs.is_empty() => {
                drop(waiting);
                let sent = socket.try_send_run(to, messages, size);
                if sent == messages.len() {
                    return;
                }
                waiting = self.waiting.lock();
                sent
            }
            _ => 0,
        };
        let rest = &messages[sent..];
        if waiting.bytes + rest.len() <= WAITING {
            waiting.bytes += rest.len();
            waiting.runs.push_back(Run { to, bytes: rest.to_vec(), size });
            drop(waiting);
            self.more.notify_one();
        }
    }

    /// Closes the socket: what is sent from now on is lost.
    pub(crate) fn close(&self) {
        self.socket.store(None);
    }

    fn next(&self) -> Option<Run> {
        let mut waiting = self.waiting.lock();
        let run = waiting.runs.pop_front()?;
        waiting.bytes -= run.bytes.len();
        Some(run)
    }

    fn put_back(&self, run: Run) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += run.bytes.len();
        waiting.runs.push_front(run);
    }

    /// Sends what had to wait for the socket.
    async fn flush(&self, socket: &SharedUdp) -> io::Result<()> {
        loop {
            while let Some(mut run) = self.next() {
                let sent = socket.try_send_run(run.to, &run.bytes, run.size);
                if sent < run.bytes.len() {
                    run.bytes.drain(..sent);
                    self.put_back(run);
                    socket.writable().await?;
                }
            }
            self.more.notified().await;
        }
    }
}

impl Receiver {
    /// Receives until the socket is broken; gives every batch to `sink`.
    ///
    /// # Errors
    /// The socket is broken.
    pub(crate) async fn run(
        &mut self,
        outer: &Outer,
        cx: &BuildCx,
        sink: &mut (impl Sink + Send),
    ) -> io::Result<()> {
        match (self, outer.socket.load_full()) {
            (Self::Socket(receiver), Some(sender)) => {
                tokio::select! {
                    result = receive(receiver, sink) => result,
                    result = outer.flush(&sender) => result,
                }
            }
            (Self::Dialled(dialer), _) => loop {
                let any = Target::unspecified();
                match dialer.associate(Dial::internal(&any)).await {
                    Ok(mut packets) => {
                        let result = exchange(&mut packets, outer, sink).await;
                        if let Err(error) = result {
                            tracing::debug!(component = %cx.me, "datagrams of the tunnel: {error}");
                        }
                    }
                    Err(error) => tracing::error!(component = %cx.me, "connect to server: {error}"),
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            },
            (Self::Socket(_), None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Errors in a row after which a socket counts as broken: single ones tell of what was sent before.
const ERRORS: usize = 64;

async fn receive(socket: &mut SharedUdp, sink: &mut (impl Sink + Send)) -> io::Result<()> {
    let mut backs: Vec<Back> = Vec::new();
    let mut errors = 0;
    loop {
        socket.readable().await?;
        let mut batch = take_batch();
        // Until there is nothing more: what has been received already does not make the socket readable.
        loop {
            match socket.try_recv(&mut batch, &mut backs) {
                Ok(_) => {
                    errors = 0;
                    sink.take(&mut batch).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    errors += 1;
                    if errors > ERRORS {
                        return Err(error);
                    }
                }
            }
            batch.clear();
            backs.clear();
            // Others get their turn now and then.
            tokio::task::consume_budget().await;
        }
        give_batch(batch);
    }
}

/// Carries messages both ways through an association until it breaks.
async fn exchange(
    packets: &mut BoxPacketIo,
    outer: &Outer,
    sink: &mut (impl Sink + Send),
) -> io::Result<()> {
    let mut sending = Batch::new();
    let mut receiving = Batch::new();
    loop {
        let mut more = std::pin::pin!(outer.more.notified());
        poll_fn(|cx| {
            let _ = more.as_mut().enable();
            loop {
                while !sending.is_full()
                    && let Some(mut run) = outer.next()
                {
                    let len = run.size.min(run.bytes.len());
                    sending.push(&run.bytes[..len], run.to.into());
                    if run.bytes.len() > len {
                        run.bytes.drain(..len);
                        outer.put_back(run);
                    }
                }
                if sending.is_empty() {
                    break;
                }
                match packets.poll_send(cx, &mut sending) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => break,
                }
            }
            match packets.poll_recv(cx, &mut receiving) {
                Poll::Ready(result) => Poll::Ready(result.map(drop)),
                Poll::Pending => more.as_mut().poll(cx).map(Ok),
            }
        })
        .await?;
        if !receiving.is_empty() {
            sink.take(&mut receiving).await;
            receiving.clear();
        }
        tokio::task::consume_budget().await;
    }
}
