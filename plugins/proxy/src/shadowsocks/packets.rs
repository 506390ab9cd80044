//! Associations with sealed datagrams inside.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use aws_lc_rs::rand;
use crosspoint_kernel::{
    addr::Target,
    flow::{Batch, BoxPacketIo, PacketIo},
};
use tracing::debug;

use super::{
    cipher::{Block, Key},
    datagram::{self, From, Place, SessionSealer},
    method::{Family, MasterKey},
    replay::Window,
    sessions::Sessions,
    stream::ClientKeys,
    wire::WireError,
};
use crate::address;

/// Seals what is new in a batch with `seal`; what does not fit is dropped. Returns how many are sealed.
fn seal_all(
    batch: &mut Batch,
    ready: usize,
    mut seal: impl FnMut(&mut Batch, usize, &Target) -> bool,
) -> usize {
    let mut bad = 0u64;
    for index in ready..batch.len() {
        let peer = batch.peer(index).clone();
        bad |= u64::from(!seal(batch, index, &peer)) << (index % 64);
    }
    if bad != 0 {
        let mut index = 0;
        batch.retain(|_, _| {
            index += 1;
            bad & (1 << ((index - 1) % 64)) == 0
        });
    }
    batch.len()
}

/// The server's end of one client.
pub(super) struct Answers {
    inner: BoxPacketIo,
    source: SocketAddr,
    sessions: Arc<Sessions>,
    ready: usize,
}

impl Answers {
    pub(super) fn new(inner: BoxPacketIo, source: SocketAddr, sessions: Arc<Sessions>) -> Self {
        Self { inner, source, sessions, ready: 0 }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.sessions.forget(self.source);
    }
}

impl PacketIo for Answers {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        // Opened before they came here.
        self.inner.poll_recv(cx, batch)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        if self.ready < batch.len() {
            let Some(client) = self.sessions.client(self.source) else {
                batch.clear();
                return Poll::Ready(Ok(()));
            };
            self.ready =
                seal_all(batch, self.ready, |batch, index, peer| client.seal(batch, index, peer));
        }
        let sent = self.inner.poll_send(cx, batch);
        self.ready = batch.len();
        sent
    }
}

/// The client's end.
pub(super) struct Client {
    inner: BoxPacketIo,
    server: Target,
    keys: Arc<ClientKeys>,
    session: Option<Box<Session>>,
    ready: usize,
}

/// A session of SIP022.
struct Session {
    id: u64,
    next: u64,
    sealer: SessionSealer,
    block: Option<Block>,
    chacha: Option<Key>,
    /// Sessions of the server: the present one and the one before.
    theirs: Vec<Theirs>,
}

struct Theirs {
    id: u64,
    opener: Option<Key>,
    window: Window,
}

impl Client {
    /// `inner` is an association with the server alone.
    pub(super) fn new(
        inner: BoxPacketIo,
        server: Target,
        keys: Arc<ClientKeys>,
    ) -> Result<Self, WireError> {
        let session = match keys.method.family {
            Family::Aead2022(_) => Some(Box::new(Session::new(&keys)?)),
            _ => None,
        };
        Ok(Self { inner, server, keys, session, ready: 0 })
    }

    fn open(&mut self, batch: &mut Batch, index: usize) -> Result<(), WireError> {
        let packet = batch.payload_mut(index);
        let (payload, peer) = match (&mut self.session, self.keys.method.family) {
            (Some(session), _) => session.open(&self.keys.own, packet)?,
            (None, Family::None) => {
                let (peer, at) = address::parse(packet)?;
                (at..packet.len(), peer)
            }
            (None, Family::Stream(_)) => datagram::open_stream(&self.keys.own, packet)?,
            (None, _) => datagram::open_aead(&self.keys.own, packet)?,
        };
        batch.truncate(index, payload.end);
        batch.trim_front(index, payload.start);
        batch.set_peer(index, peer);
        Ok(())
    }
}

impl Session {
    fn new(keys: &ClientKeys) -> Result<Self, WireError> {
        let mut id = [0; 8];
        rand::fill(&mut id).map_err(|_| super::cipher::Forged)?;
        let id = u64::from_be_bytes(id);
        let chacha = datagram::is_chacha(&keys.own);
        Ok(Self {
            id,
            next: 0,
            sealer: SessionSealer::new(&keys.own, &keys.servers, id)?,
            block: (!chacha).then(|| keys.own.block()).transpose()?,
            chacha: chacha.then(|| keys.own.datagrams()).transpose()?,
            theirs: Vec::new(),
        })
    }

    fn open(
        &mut self,
        key: &MasterKey,
        packet: &mut [u8],
    ) -> Result<(std::ops::Range<usize>, Target), WireError> {
        let from = From::Server { client: self.id };
        let (place, payload, peer, fresh) = if let Some(chacha) = &self.chacha {
            let (place, payload, peer) = datagram::open_chacha(chacha, packet, from)?;
            (place, payload, peer, None)
        } else {
            let block = self.block.as_ref().ok_or(WireError::User)?;
            let place = datagram::open_header(block, packet)?;
            let known = self.theirs.iter().find(|theirs| theirs.id == place.session);
            let fresh = match known {
                Some(_) => None,
                None => Some(key.session(&place.session.to_be_bytes())?),
            };
            let opener = known.and_then(|theirs| theirs.opener.as_ref()).or(fresh.as_ref());
            let opener = opener.ok_or(WireError::User)?;
            let (payload, peer) = datagram::open_message(opener, packet, 16, from)?;
            (place, payload, peer, fresh)
        };
        self.note(place, fresh)?;
        Ok((payload, peer))
    }

    /// Checks the number of a datagram that is genuine, and remembers it.
    fn note(&mut self, place: Place, fresh: Option<Key>) -> Result<(), WireError> {
        let at = match self.theirs.iter().position(|theirs| theirs.id == place.session) {
            Some(at) => at,
            None => {
                // A server that has restarted; late answers of the one before are still welcome.
                self.theirs.truncate(1);
                let window = Window::default();
                self.theirs.insert(0, Theirs { id: place.session, opener: fresh, window });
                0
            }
        };
        let Some(theirs) = self.theirs.get_mut(at) else { return Ok(()) };
        if !theirs.window.is_new(place.number) {
            return Err(WireError::PacketReplay);
        }
        theirs.window.insert(place.number);
        Ok(())
    }
}

impl PacketIo for Client {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        loop {
            let before = batch.len();
            match self.inner.poll_recv(cx, batch) {
                Poll::Ready(Ok(_)) => {}
                other => return other,
            }
            let mut bad = 0u64;
            for index in before..batch.len() {
                if let Err(error) = self.open(batch, index) {
                    debug!("datagram of shadowsocks server {} dropped: {error}", self.server);
                    bad |= 1 << (index % 64);
                }
            }
            if bad != 0 {
                let mut index = 0;
                batch.retain(|_, _| {
                    index += 1;
                    bad & (1 << ((index - 1) % 64)) == 0
                });
            }
            if batch.len() > before {
                return Poll::Ready(Ok(batch.len() - before));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let (keys, server) = (&self.keys, &self.server);
        let session = &mut self.session;
        self.ready = seal_all(batch, self.ready, |batch, index, peer| {
            let done = match (&mut *session, keys.method.family) {
                (Some(session), _) => {
                    let place = Place { session: session.id, number: session.next };
                    session.next += 1;
                    session.sealer.seal(batch, index, place, From::Client, peer)
                }
                (None, Family::None) => {
                    let mut head = Vec::with_capacity(address::MAX);
                    address::emit(peer, &mut head);
                    match batch.grow_front(index, head.len()) {
                        Some(room) => {
                            room.copy_from_slice(&head);
                            true
                        }
                        None => false,
                    }
                }
                (None, Family::Stream(_)) => datagram::seal_stream(batch, index, &keys.own, peer),
                (None, _) => datagram::seal_aead(batch, index, &keys.own, peer),
            };
            batch.set_peer(index, server.clone());
            done
        });
        let sent = self.inner.poll_send(cx, batch);
        self.ready = batch.len();
        sent
    }
}
