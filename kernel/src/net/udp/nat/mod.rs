//! One listening socket, one association for each client.
//!
//! The table belongs to the socket and not to the component that reads it: [`Nat::on`] gives every
//! user of one socket the same table, and sessions keep it alive. So sessions outlive the loop that
//! opened them, and the next loop on the same socket goes on where that one stopped.

mod session;

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use quinn_udp::RecvMeta;
use tokio::net::UdpSocket;

use self::session::{Session, Shared};
use super::{inbox::Inbox, offload::Offload};
use crate::{
    addr::Target,
    flow::{Batch, BoxPacketIo},
    relay::{give_batch, take_batch},
};

/// Sessions per socket unless [`Nat::limit`] says otherwise, as in the reference (`udpnat2`).
pub const SESSIONS: usize = 1024;

/// Batches that the loop moves before other tasks get their turn.
const TURNS: usize = 8;

/// Errors in a row after which the socket counts as broken.
const ERRORS: usize = 64;

/// All tables. A table lives as long as a loop or a session uses it.
static TABLES: Mutex<Vec<Weak<Nat>>> = Mutex::new(Vec::new());

/// A client that was not known.
pub struct NewSession {
    /// The client.
    pub source: SocketAddr,
    /// Destination of its first packet.
    pub target: Target,
    /// Our address that the first packet came to, where the system tells; replies leave from it.
    pub local: Option<IpAddr>,
    /// The association. Dropping it forgets the client.
    pub packets: BoxPacketIo,
}

impl std::fmt::Debug for NewSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSession")
            .field("source", &self.source)
            .field("target", &self.target)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// The sessions of one shared socket.
#[derive(Debug)]
pub struct Nat {
    socket: Arc<UdpSocket>,
    offload: Offload,
    /// Bound to no address in particular: replies must name the one that the client knows.
    wildcard: bool,
    table: Mutex<HashMap<SocketAddr, Arc<Shared>>>,
    limit: AtomicUsize,
    /// Counts receive calls: the time by which the oldest session is found.
    clock: AtomicU64,
}

/// Where a received datagram came from, beside its place in the batch.
struct Origin {
    source: SocketAddr,
    local: Option<IpAddr>,
}

impl Origin {
    fn new(meta: &RecvMeta) -> Self {
        let usable = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_multicast(),
        };
        Self {
            source: canonical(meta.addr),
            local: meta.dst_ip.map(|ip| ip.to_canonical()).filter(usable),
        }
    }
}

/// IPv4 clients of a dual-stack socket as IPv4; the scope of a link-local address stays.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(addr.ip().to_canonical(), addr.port())
        }
        addr => addr,
    }
}

impl Nat {
    /// The table of that socket: the one that exists, else a new one.
    ///
    /// # Errors
    /// The system refuses the options that batches need.
    pub fn on(socket: &Arc<UdpSocket>) -> io::Result<Arc<Self>> {
        let mut tables = TABLES.lock();
        let mut found = None;
        tables.retain(|table| {
            let live = table.upgrade();
            found = found
                .take()
                .or_else(|| live.clone().filter(|nat| Arc::ptr_eq(&nat.socket, socket)));
            live.is_some()
        });
        if let Some(nat) = found {
            return Ok(nat);
        }
        let wildcard = socket.local_addr()?.ip().is_unspecified();
        let nat = Arc::new(Self {
            socket: socket.clone(),
            offload: Offload::new(socket, wildcard)?,
            wildcard,
            table: Mutex::default(),
            limit: AtomicUsize::new(SESSIONS),
            clock: AtomicU64::new(0),
        });
        tables.push(Arc::downgrade(&nat));
        Ok(nat)
    }

    /// Sets how many sessions there may be. When one more client comes, the sessions that were silent
    /// for longest end.
    pub fn limit(&self, sessions: usize) {
        self.limit.store(sessions.max(1), Ordering::Relaxed);
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    /// Ends all sessions.
    pub fn clear(&self) {
        let sessions: Vec<_> = self.table.lock().drain().collect();
        sessions.iter().for_each(|(_, session)| session.close());
    }

    /// Receives until the future is dropped. `classify` says for each datagram which part of it is
    /// payload, and where that is meant to go, or drops it with `None`; it may decrypt in place.
    /// `admit` takes each new client's session.
    ///
    /// Dropping the future loses nothing but what it was just handing over; two loops on one socket
    /// share the work while one replaces the other.
    ///
    /// # Errors
    /// The socket is broken; otherwise it never returns.
    pub async fn serve(
        self: &Arc<Self>,
        mut classify: impl FnMut(SocketAddr, &mut [u8]) -> Option<(Range<usize>, Target)>,
        mut admit: impl FnMut(NewSession),
    ) -> io::Error {
        let mut inbox = Inbox::default();
        let mut origins = Vec::new();
        let mut errors = 0;
        loop {
            if let Err(error) = self.socket.readable().await {
                return error;
            }
            let mut drained = false;
            for _ in 0..TURNS {
                let mut batch = take_batch();
                origins.clear();
                let result = inbox.recv(&self.offload, &self.socket, &mut batch, |meta| {
                    origins.push(Origin::new(meta));
                });
                match result {
                    Ok(_) => {
                        errors = 0;
                        self.hand_over(&mut batch, &origins, &mut classify, &mut admit);
                        give_batch(batch);
                    }
                    Err(error) => {
                        give_batch(batch);
                        if error.kind() == io::ErrorKind::WouldBlock {
                            drained = true;
                            break;
                        }
                        // Answers to what was sent to a client that is gone, mostly.
                        errors += 1;
                        if errors > ERRORS {
                            return error;
                        }
                    }
                }
            }
            if !drained {
                tokio::task::yield_now().await;
            }
        }
    }

    fn hand_over(
        self: &Arc<Self>,
        batch: &mut Batch,
        origins: &[Origin],
        classify: &mut impl FnMut(SocketAddr, &mut [u8]) -> Option<(Range<usize>, Target)>,
        admit: &mut impl FnMut(NewSession),
    ) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        // Packets of one client mostly come in a row.
        let mut last: Option<Arc<Shared>> = None;
        for (i, origin) in origins.iter().enumerate().take(batch.len()) {
            let payload = batch.payload_mut(i);
            let Some((range, target)) = classify(origin.source, payload) else { continue };
            let Some(payload) = payload.get(range) else { continue };
            let session = match last.take().filter(|session| session.source == origin.source) {
                Some(session) => session,
                None => self.session(origin, &target, now, admit),
            };
            session.push(payload, target, now);
            last = Some(session);
        }
    }

    /// The session of that client; opens one when there is none.
    fn session(
        self: &Arc<Self>,
        origin: &Origin,
        target: &Target,
        now: u64,
        admit: &mut impl FnMut(NewSession),
    ) -> Arc<Shared> {
        let mut table = self.table.lock();
        let limit = self.limit.load(Ordering::Relaxed);
        let evicted = match table.contains_key(&origin.source) {
            false if table.len() >= limit => evict(&mut table, limit),
            _ => Vec::new(),
        };
        let local = origin.local.filter(|_| self.wildcard);
        let shared = match table.entry(origin.source) {
            Entry::Occupied(entry) => return entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(Arc::new(Shared::new(origin.source, now))).clone(),
        };
        drop(table);
        evicted.iter().for_each(|session| session.close());
        admit(NewSession {
            source: origin.source,
            target: target.clone(),
            local: origin.local,
            packets: Box::new(Session::new(self.clone(), shared.clone(), local)),
        });
        shared
    }

    /// Forgets a session, unless another one has taken its place.
    fn forget(&self, session: &Arc<Shared>) {
        let mut table = self.table.lock();
        if table.get(&session.source).is_some_and(|known| Arc::ptr_eq(known, session)) {
            table.remove(&session.source);
        }
        if table.is_empty() && table.capacity() > 64 {
            table.shrink_to_fit();
        }
    }
}

/// Takes the longest silent sixteenth out, so that a flood of new clients does not search the table
/// for each.
fn evict(table: &mut HashMap<SocketAddr, Arc<Shared>>, limit: usize) -> Vec<Arc<Shared>> {
    let mut seen: Vec<_> =
        table.iter().map(|(source, session)| (session.seen(), *source)).collect();
    let count = (table.len() + 1).saturating_sub(limit).max(limit / 16).clamp(1, seen.len());
    seen.select_nth_unstable(count - 1);
    seen[..count].iter().filter_map(|(_, source)| table.remove(source)).collect()
}
