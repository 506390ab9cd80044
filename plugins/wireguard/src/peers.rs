//! The peers of a device, and which addresses are whose.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use boringtun::{
    noise::rate_limiter::RateLimiter,
    x25519::{PublicKey, StaticSecret},
};
use crosspoint_kernel::{BuildError, addr::Target};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use parking_lot::Mutex;

use crate::{
    keys::{self, Key},
    options::WireGuardPeer,
    tunnel::{Boring, Tunnel},
};

/// What the configuration says of a peer, checked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) key: Key,
    shared: Option<Key>,
    pub(crate) keepalive: Option<u16>,
    /// Where it is, if we know.
    pub(crate) endpoint: Option<Target>,
    allowed: Vec<(IpAddr, u8)>,
    reserved: [u8; 3],
}

impl Config {
    /// Reads the options of the peer of that index.
    ///
    /// # Errors
    /// What is wrong, in the reference's words where it has some.
    pub(crate) fn new(index: usize, options: &WireGuardPeer) -> Result<Self, BuildError> {
        let key = keys::parse(&format!("public key for peer {index}"), &options.public_key)?;
        let shared = options.pre_shared_key.expose();
        let shared = (!shared.is_empty())
            .then(|| keys::parse(&format!("pre shared key for peer {index}"), shared))
            .transpose()?;
        if options.allowed_ips.is_empty() {
            return Err(BuildError::options(format!("missing allowed ips for peer {index}")));
        }
        let reserved = match options.reserved.0.len() {
            0 => [0; 3],
            len => options.reserved.0.as_slice().try_into().map_err(|_| {
                BuildError::options(format!(
                    "invalid reserved value for peer {index}, required 3 bytes, got {len}"
                ))
            })?,
        };
        let endpoint = (!options.address.is_empty())
            .then(|| Target::new(options.address.as_str(), options.port));
        Ok(Self {
            key,
            shared,
            keepalive: Some(options.persistent_keepalive_interval).filter(|seconds| *seconds > 0),
            endpoint,
            allowed: options.allowed_ips.iter().map(|prefix| (prefix.addr, prefix.bits)).collect(),
            reserved,
        })
    }
}

impl Config {
    /// Where it is, if that needs no resolver.
    fn address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().and_then(Target::socket_addr)
    }

    /// Takes what another entry says of the same peer: as if both had been said to a WireGuard device one after the
    /// other.
    pub(crate) fn also(&mut self, other: Self) {
        self.shared = other.shared.or(self.shared);
        self.keepalive = other.keepalive.or(self.keepalive);
        self.endpoint = other.endpoint.or_else(|| self.endpoint.take());
        self.allowed.extend(other.allowed);
        if other.reserved != [0; 3] {
            self.reserved = other.reserved;
        }
    }
}

/// A peer.
pub(crate) struct Peer {
    pub(crate) config: Config,
    /// Keys and sessions: the same for all that the configuration has said of this peer since it has it.
    pub(crate) tunnel: Arc<Mutex<Box<dyn Tunnel>>>,
    /// Where its last authentic message came from, or where the configuration says that it is.
    endpoint: ArcSwapOption<SocketAddr>,
    /// Payload bytes to it and from it.
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Peer {
    /// The same peer, of which the configuration says something else now.
    fn changed(&self, config: &Config) -> Self {
        self.tunnel.lock().set_keepalive(config.keepalive);
        let moved = config.endpoint.is_some() && config.endpoint != self.config.endpoint;
        let known = if moved { config.address().map(Arc::new) } else { self.endpoint.load_full() };
        Self {
            config: config.clone(),
            tunnel: self.tunnel.clone(),
            endpoint: ArcSwapOption::new(known),
            sent: AtomicU64::new(self.sent.load(Ordering::Relaxed)),
            received: AtomicU64::new(self.received.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint.load().as_deref().copied()
    }

    /// It is there now.
    pub(crate) fn seen_at(&self, addr: SocketAddr) {
        if self.endpoint.load().as_deref() != Some(&addr) {
            self.endpoint.store(Some(Arc::new(addr)));
        }
    }

    /// Puts its reserved bytes into messages of that size which lie one behind the other.
    pub(crate) fn mark(&self, messages: &mut [u8], size: usize) {
        if self.config.reserved != [0; 3] {
            for message in messages.chunks_mut(size.max(1)) {
                if let Some(place) = message.get_mut(1..4) {
                    place.copy_from_slice(&self.config.reserved);
                }
            }
        }
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// All peers of a device at one time.
pub(crate) struct Peers {
    by_key: HashMap<Key, Arc<Peer>>,
    /// By the number that stands in messages to us.
    by_index: HashMap<u32, Arc<Peer>>,
    routes: IpNetworkTable<Arc<Peer>>,
    next: u32,
}

/// Our own key and what guards handshakes.
pub(crate) struct Identity {
    pub(crate) secret: StaticSecret,
    pub(crate) public: PublicKey,
    pub(crate) limiter: Arc<RateLimiter>,
}

/// Handshakes a second before peers have to prove their address. Each is counted twice: when its sender is looked for,
/// and when it is taken.
const HANDSHAKES: u64 = 200;

impl Identity {
    pub(crate) fn new(key: Key) -> Self {
        let secret = StaticSecret::from(key);
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES));
        Self { secret, public, limiter }
    }
}

impl Peers {
    /// The peers that are configured. Those of `before` keep their sessions, unless the secret that we share with one
    /// is another now, and are where they were last seen.
    pub(crate) fn new(configs: &[Config], identity: &Identity, before: Option<&Self>) -> Self {
        let mut own = Self {
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            routes: IpNetworkTable::new(),
            next: before.map_or(1, |before| before.next),
        };
        for config in configs {
            let old = before.and_then(|before| before.find(config));
            let (index, peer) = match old {
                Some((index, peer)) if peer.config == *config => (index, peer),
                Some((index, peer)) => (index, Arc::new(peer.changed(config))),
                None => own.make(config, identity),
            };
            for (addr, bits) in &config.allowed {
                if let Ok(network) = IpNetwork::new_truncate(*addr, *bits) {
                    // The last one that names a network has it, as in every WireGuard.
                    own.routes.insert(network, peer.clone());
                }
            }
            own.by_key.insert(config.key, peer.clone());
            own.by_index.insert(index, peer);
        }
        own
    }

    /// The peer with that key and secret.
    fn find(&self, config: &Config) -> Option<(u32, Arc<Peer>)> {
        let same = |peer: &Config| peer.key == config.key && peer.shared == config.shared;
        let (index, peer) = self.by_index.iter().find(|(_, peer)| same(&peer.config))?;
        Some((*index, peer.clone()))
    }

    fn make(&mut self, config: &Config, identity: &Identity) -> (u32, Arc<Peer>) {
        let index = self.next;
        // 24 bits of it stand in messages.
        self.next = (self.next + 1) & 0x00ff_ffff;
        let tunnel = Boring::new(
            &identity.secret,
            config.key,
            config.shared,
            config.keepalive,
            index,
            identity.limiter.clone(),
        );
        let peer = Peer {
            config: config.clone(),
            tunnel: Arc::new(Mutex::new(Box::new(tunnel))),
            endpoint: ArcSwapOption::new(config.address().map(Arc::new)),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        (index, Arc::new(peer))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_key.values()
    }

    /// The peer that an address is behind.
    pub(crate) fn route(&self, to: IpAddr) -> Option<&Arc<Peer>> {
        self.routes.longest_match(to).map(|(_, peer)| peer)
    }

    /// The peer of that number.
    pub(crate) fn by_index(&self, index: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&index)
    }

    /// The peer of that key.
    pub(crate) fn by_key(&self, key: &Key) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }
}
