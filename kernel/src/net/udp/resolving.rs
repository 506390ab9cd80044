//! Packets that name their peers by domain.

use std::{
    fmt, io,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use crate::{
    BoxFuture,
    addr::{Host, Target},
    error::DialError,
    flow::{Batch, BoxPacketIo, PacketIo},
    relay::{give_batch, take_batch},
};

/// Names that one association remembers; the one that was used longest ago makes room.
const NAMES: usize = 64;

/// Lookups that one association has under way.
const LOOKUPS: usize = 16;

/// Packets that wait for lookups of one association.
const HELD: usize = 64;

/// Payload bytes that wait for lookups of one association.
const HELD_BYTES: usize = 256 * 1024;

/// How long a failed lookup is not repeated; packets to that name are dropped meanwhile.
const FAILED: Duration = Duration::from_secs(5);

/// Finds the address of a name, of a family that the socket speaks.
pub type Resolver =
    Box<dyn Fn(Arc<str>) -> BoxFuture<'static, Result<IpAddr, DialError>> + Send + 'static>;

/// A name and what is known of it.
struct Known {
    name: Arc<str>,
    /// The address, which stays the same as long as the association uses it; or the time of failure.
    found: Result<IpAddr, Instant>,
    /// The client uses the name, and not the address itself.
    by_name: bool,
    used: u64,
}

/// A lookup and the packets that wait for it.
struct Waiting {
    name: Arc<str>,
    lookup: BoxFuture<'static, Result<IpAddr, DialError>>,
    held: Vec<(Box<[u8]>, u16)>,
}

/// Resolves the names that packets are addressed to, and gives replies the name which the client had
/// used, unless that is switched off. A name keeps its address for the life of the association, so
/// that a flow does not wander between addresses.
pub struct ResolvingPackets {
    inner: BoxPacketIo,
    resolve: Resolver,
    unmap: bool,
    known: Vec<Known>,
    waiting: Vec<Waiting>,
    held: (usize, usize),
    /// Packets whose lookup has ended, on their way out.
    ready: Option<Batch>,
    clock: u64,
}

impl fmt::Debug for ResolvingPackets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvingPackets")
            .field("known", &self.known.len())
            .field("waiting", &self.waiting.len())
            .finish()
    }
}

impl ResolvingPackets {
    /// Resolves for `inner`. `disable_domain_unmapping`: replies show the address that they came from.
    pub fn new(inner: BoxPacketIo, disable_domain_unmapping: bool, resolve: Resolver) -> Self {
        Self {
            inner,
            resolve,
            unmap: !disable_domain_unmapping,
            known: Vec::new(),
            waiting: Vec::new(),
            held: (0, 0),
            ready: None,
            clock: 0,
        }
    }

    /// Remembers the address of a name that was resolved already, for the first destination.
    pub fn with_known(mut self, name: Arc<str>, ip: IpAddr) -> Self {
        self.learn(name, Ok(ip.to_canonical()));
        self
    }

    fn learn(&mut self, name: Arc<str>, found: Result<IpAddr, Instant>) {
        self.known.retain(|known| known.name != name);
        if self.known.len() >= NAMES
            && let Some(oldest) = (0..self.known.len()).min_by_key(|i| self.known[*i].used)
        {
            self.known.swap_remove(oldest);
        }
        self.known.push(Known { name, found, by_name: true, used: self.clock });
    }

    /// Replaces names by addresses; takes packets out whose name has none yet.
    fn resolve(&mut self, batch: &mut Batch) {
        let names = (0..batch.len()).any(|i| batch.peer(i).host.name().is_some());
        if !names && self.known.is_empty() {
            return;
        }
        self.clock += 1;
        for i in 0..batch.len() {
            let peer = batch.peer(i);
            match &peer.host {
                Host::Name(name) => {
                    let hit = self.known.iter_mut().find(|known| same(&known.name, name));
                    if let Some(known) = hit
                        && let Ok(ip) = known.found
                    {
                        (known.used, known.by_name) = (self.clock, true);
                        let to = Target::new(ip, peer.port);
                        batch.set_peer(i, to);
                    }
                }
                Host::Ip(ip) => {
                    let direct = self.known.iter_mut().filter(|known| known.found == Ok(*ip));
                    direct.for_each(|known| known.by_name = false);
                }
            }
        }
        if names {
            batch.retain(|peer, payload| match &peer.host {
                Host::Ip(_) => true,
                Host::Name(name) => {
                    self.hold(name, payload, peer.port);
                    false
                }
            });
        }
    }

    /// Keeps a packet until its name is resolved. What is too much is dropped, as on a full socket.
    fn hold(&mut self, name: &Arc<str>, payload: &[u8], port: u16) {
        if self.held.0 >= HELD || self.held.1 + payload.len() > HELD_BYTES {
            return;
        }
        let index = match self.waiting.iter().position(|waiting| same(&waiting.name, name)) {
            Some(index) => index,
            None => {
                let failed = self.known.iter().any(|known| {
                    same(&known.name, name)
                        && known.found.is_err_and(|since| since.elapsed() < FAILED)
                });
                if failed || self.waiting.len() >= LOOKUPS {
                    return;
                }
                let (name, lookup) = (name.clone(), (self.resolve)(name.clone()));
                self.waiting.push(Waiting { name, lookup, held: Vec::new() });
                self.waiting.len() - 1
            }
        };
        self.held = (self.held.0 + 1, self.held.1 + payload.len());
        self.waiting[index].held.push((payload.into(), port));
    }

    /// Polls the lookups and sends packets whose lookup has ended. Pending only while these packets
    /// wait for the socket.
    fn poll_lookups(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut index = 0;
        while index < self.waiting.len() {
            // Packets of one lookup fit into one batch and a half: do not start before there is room.
            if let Some(batch) = &mut self.ready {
                ready!(self.inner.poll_send(cx, batch))?;
                self.ready.take().into_iter().for_each(give_batch);
            }
            let waiting = &mut self.waiting[index];
            let Poll::Ready(found) = waiting.lookup.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            let Waiting { name, held, .. } = self.waiting.swap_remove(index);
            let bytes: usize = held.iter().map(|(payload, _)| payload.len()).sum();
            self.held = (self.held.0 - held.len(), self.held.1 - bytes);
            match found {
                Ok(ip) => {
                    let ip = ip.to_canonical();
                    self.learn(name, Ok(ip));
                    let mut batch = take_batch();
                    for (payload, port) in &held {
                        if batch.is_full() && self.inner.poll_send(cx, &mut batch)?.is_pending() {
                            break;
                        }
                        batch.push(payload, Target::new(ip, *port));
                    }
                    self.ready = Some(batch);
                }
                Err(error) => {
                    tracing::debug!("resolve packet destination {name}: {error}");
                    self.learn(name, Err(Instant::now()));
                }
            }
        }
        if let Some(batch) = &mut self.ready {
            ready!(self.inner.poll_send(cx, batch))?;
            self.ready.take().into_iter().for_each(give_batch);
        }
        Poll::Ready(Ok(()))
    }
}

fn same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl PacketIo for ResolvingPackets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = self.poll_lookups(cx) {
            return Poll::Ready(Err(error));
        }
        let added = ready!(self.inner.poll_recv(cx, batch))?;
        if self.unmap && !self.known.is_empty() {
            for i in batch.len().saturating_sub(added)..batch.len() {
                let peer = batch.peer(i);
                let named = self.known.iter().find(|known| {
                    known.by_name && known.found.is_ok_and(|ip| Some(ip) == peer.host.ip())
                });
                if let Some(known) = named {
                    let shown = Target { host: Host::Name(known.name.clone()), port: peer.port };
                    batch.set_peer(i, shown);
                }
            }
        }
        Poll::Ready(Ok(added))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.resolve(batch);
        ready!(self.poll_lookups(cx))?;
        self.inner.poll_send(cx, batch)
    }
}
