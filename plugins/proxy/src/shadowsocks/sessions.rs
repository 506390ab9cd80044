//! Datagram sessions of a server: who sends from where, and how answers are sealed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use crosspoint_kernel::{addr::Target, flow::Batch};
use parking_lot::Mutex;

use super::{
    cipher::{Block, Forged, Key},
    datagram::{self, From, Place, SessionSealer},
    keys::ServerKeys,
    method::{Family, MasterKey},
    replay::Window,
    wire::WireError,
};
use crate::address;

/// Sessions beyond which those that were silent for [`SILENT`] are forgotten.
const MANY: usize = 4096;

/// See [`MANY`].
const SILENT: Duration = Duration::from_secs(300);

/// The datagram side of one set of keys. Flows keep theirs when other keys come in force.
#[derive(Debug)]
pub(super) struct Sessions {
    keys: Arc<ServerKeys>,
    /// Reads the headers of SIP022 with AES.
    block: Option<Block>,
    /// Opens datagrams of SIP022 with ChaCha20.
    chacha: Option<Key>,
    /// Shared with the keys that come after these.
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// SIP022, by the client's session id.
    sessions: HashMap<u64, Arc<Session>>,
    /// How to answer each client.
    clients: HashMap<SocketAddr, Client>,
}

/// How to answer a client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) user: Option<Arc<str>>,
    how: How,
    seen: Instant,
}

#[derive(Clone, Debug)]
enum How {
    Plain,
    Aead(MasterKey),
    Session(Arc<Session>),
}

/// A session of SIP022.
#[derive(Debug)]
struct Session {
    /// The client's id.
    client: u64,
    user: Option<Arc<str>>,
    key: MasterKey,
    /// Opens what the client sends, with AES.
    opener: Option<Key>,
    window: Mutex<Window>,
    /// Our id, and how we seal.
    ours: u64,
    sealer: SessionSealer,
    next: AtomicU64,
}

impl Session {
    fn new(client: u64, key: &MasterKey, user: Option<Arc<str>>) -> Result<Self, WireError> {
        let mut ours = [0; 8];
        rand::fill(&mut ours).map_err(|_| Forged)?;
        let ours = u64::from_be_bytes(ours);
        let opener = match datagram::is_chacha(key) {
            true => None,
            false => Some(key.session(&client.to_be_bytes())?),
        };
        let sealer = SessionSealer::new(key, &[], ours)?;
        Ok(Self {
            client,
            user,
            key: key.clone(),
            opener,
            window: Mutex::default(),
            ours,
            sealer,
            next: AtomicU64::new(0),
        })
    }
}

impl Sessions {
    pub(super) fn new(keys: Arc<ServerKeys>) -> Result<Self, Forged> {
        let new = matches!(keys.method.family, Family::Aead2022(_));
        let chacha = datagram::is_chacha(&keys.own);
        Ok(Self {
            block: (new && !chacha).then(|| keys.own.block()).transpose()?,
            chacha: chacha.then(|| keys.own.datagrams()).transpose()?,
            keys,
            table: Arc::default(),
        })
    }

    /// These sessions under other keys of the same server: those of users whose key stays go on.
    pub(super) fn under(&self, keys: Arc<ServerKeys>) -> Result<Self, Forged> {
        if !keys.is_shared() {
            let same = keys.unchanged(&self.keys);
            let stays = |user: &Option<Arc<str>>| {
                user.as_ref().is_some_and(|name| same.contains_key(&**name))
            };
            let mut table = self.table.lock();
            table.sessions.retain(|_, session| stays(&session.user));
            table.clients.retain(|_, client| stays(&client.user));
        }
        Ok(Self { table: self.table.clone(), ..Self::new(keys)? })
    }

    /// Opens a datagram in place: where its payload lies, and where it is to go.
    pub(super) fn open(
        &self,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target), WireError> {
        let (payload, target, user, how) = match self.keys.method.family {
            Family::None | Family::Stream(_) => {
                let (target, at) = address::parse(packet)?;
                (at..packet.len(), target, None, How::Plain)
            }
            Family::Aead(_) => self.open_aead(source, packet)?,
            Family::Aead2022(_) => self.open_2022(packet)?,
        };
        let client = Client { user, how, seen: Instant::now() };
        let mut table = self.table.lock();
        if table.clients.len() >= MANY {
            table.clients.retain(|_, client| client.seen.elapsed() < SILENT);
            let live: Vec<u64> = table.clients.values().filter_map(Client::session).collect();
            table.sessions.retain(|id, _| live.contains(id));
        }
        table.clients.insert(source, client);
        Ok((payload, target))
    }

    #[expect(clippy::type_complexity, reason = "parts of one datagram")]
    fn open_aead(
        &self,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target, Option<Arc<str>>, How), WireError> {
        // Who has sent from there before is tried first: with many users the others cost much.
        if !self.keys.is_shared()
            && let Some(Client { user, how: How::Aead(key), .. }) = self.client(source)
        {
            let mut copy = packet.to_vec();
            if let Ok((payload, target)) = datagram::open_aead(&key, &mut copy) {
                packet.copy_from_slice(&copy);
                return Ok((payload, target, user, How::Aead(key)));
            }
        }
        let mut candidates = self.keys.candidates().peekable();
        while let Some((key, user)) = candidates.next() {
            // A failed attempt leaves the bytes undefined: all but the last one work on a copy.
            let opened = if candidates.peek().is_some() {
                let mut copy = packet.to_vec();
                datagram::open_aead(key, &mut copy).inspect(|_| packet.copy_from_slice(&copy))
            } else {
                datagram::open_aead(key, packet)
            };
            match opened {
                Ok((payload, target)) => {
                    return Ok((payload, target, user.cloned(), How::Aead(key.clone())));
                }
                Err(WireError::Forged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(WireError::Forged(Forged))
    }

    #[expect(clippy::type_complexity, reason = "parts of one datagram")]
    fn open_2022(
        &self,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target, Option<Arc<str>>, How), WireError> {
        let (place, payload, target, session) = if let Some(key) = &self.chacha {
            let (place, payload, target) = datagram::open_chacha(key, packet, From::Client)?;
            let known = self.table.lock().sessions.get(&place.session).cloned();
            let session = match known {
                Some(session) => session,
                None => Arc::new(Session::new(place.session, &self.keys.own, None)?),
            };
            (place, payload, target, session)
        } else {
            let block = self.block.as_ref().ok_or(WireError::User)?;
            let place = datagram::open_header(block, packet)?;
            let (key, user, at) = if self.keys.is_shared() {
                (&self.keys.own, None, 16)
            } else {
                let identity = datagram::open_identity(block, packet)?;
                let user = self.keys.identified(&identity).ok_or(WireError::User)?;
                (&user.key, Some(user.name.clone()), 32)
            };
            let known = self.table.lock().sessions.get(&place.session).cloned();
            let session = match known.filter(|session| session.key == *key && session.user == user)
            {
                Some(session) => session,
                None => Arc::new(Session::new(place.session, key, user)?),
            };
            let opener = session.opener.as_ref().ok_or(WireError::User)?;
            if !session.window.lock().is_new(place.number) {
                return Err(WireError::PacketReplay);
            }
            let (payload, target) = datagram::open_message(opener, packet, at, From::Client)?;
            (place, payload, target, session)
        };
        {
            let mut window = session.window.lock();
            if !window.is_new(place.number) {
                return Err(WireError::PacketReplay);
            }
            window.insert(place.number);
        }
        self.table.lock().sessions.insert(place.session, session.clone());
        Ok((payload, target, session.user.clone(), How::Session(session)))
    }

    /// How to answer that client.
    pub(super) fn client(&self, source: SocketAddr) -> Option<Client> {
        self.table.lock().clients.get(&source).cloned()
    }

    /// Forgets a client.
    pub(super) fn forget(&self, source: SocketAddr) {
        let mut table = self.table.lock();
        if let Some(id) = table.clients.remove(&source).as_ref().and_then(Client::session) {
            table.sessions.remove(&id);
        }
    }
}

impl Client {
    fn session(&self) -> Option<u64> {
        match &self.how {
            How::Session(session) => Some(session.client),
            _ => None,
        }
    }

    /// Seals datagram `index` from `peer`. False: it does not fit.
    pub(super) fn seal(&self, batch: &mut Batch, index: usize, peer: &Target) -> bool {
        match &self.how {
            How::Plain => {
                let mut head = Vec::with_capacity(address::MAX);
                address::emit(peer, &mut head);
                let Some(room) = batch.grow_front(index, head.len()) else { return false };
                room.copy_from_slice(&head);
                true
            }
            How::Aead(key) => datagram::seal_aead(batch, index, key, peer),
            How::Session(session) => {
                let number = session.next.fetch_add(1, Ordering::Relaxed);
                let place = Place { session: session.ours, number };
                let from = From::Server { client: session.client };
                session.sealer.seal(batch, index, place, from, peer)
            }
        }
    }
}
