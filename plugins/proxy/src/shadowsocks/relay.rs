//! Inbound `shadowsocks` with `destinations`: a relay of SIP022. It takes the identity header that is meant for it off
//! each stream and datagram, which says which server comes next, and hands the rest on without being able to read it.
//!
//! Source: SIP022 §3.1.2 and §3.2.2, SIP023; sing-shadowsocks `shadowaead_2022/relay.go` for what a relay accepts.

use std::{collections::HashMap, net::SocketAddr, ops::Range, sync::Arc};

use arc_swap::ArcSwap;
use crosspoint_kernel::{
    BoxFuture, BuildError,
    addr::Target,
    component::{BuildCx, Change, Claims, Component, Control, Deps, Spec},
    flow::{BoxPacketIo, Flow, Prefixed},
    net::listen,
};
use crosspoint_layers::{
    entrance::{Arrived, EntranceOptions},
    inbound::{Greeter, Inbound, InboundOptions, Refused, Wanted, cut_strangers},
    spec,
};
use crosspoint_schema::decode::{Map, Options as _};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;

use super::{
    cipher::{BLOCK, Block},
    datagram,
    method::{Family, KeyError, MasterKey, Method},
    options::ShadowsocksInOptions,
    udp::{self, Datagrams},
    wire::WireError,
};

/// The servers behind a relay.
#[derive(Debug)]
pub(super) struct Table {
    own: MasterKey,
    /// Reads headers of datagrams.
    block: Block,
    by_identity: HashMap<[u8; BLOCK], Destination>,
}

#[derive(Debug)]
struct Destination {
    name: Arc<str>,
    /// Its key: headers of datagrams go on under it.
    block: Block,
    server: Target,
}

impl Table {
    /// The servers in the options.
    ///
    /// # Errors
    /// [`KeyError`], in the order in which the reference finds things.
    pub(super) fn new(options: &ShadowsocksInOptions) -> Result<Self, KeyError> {
        let method = Method::named(&options.method).ok();
        let method = method.filter(|method| matches!(method.family, Family::Aead2022(_)));
        let method = method.ok_or(KeyError::NoIdentity)?;
        let own = method.key(options.password.expose(), "decode psk")?;
        if !own.has_users() {
            return Err(KeyError::NoIdentity);
        }
        let block = |key: &MasterKey| key.block().map_err(|_| KeyError::NoIdentity);
        let mut by_identity = HashMap::new();
        for (at, to) in options.destinations.iter().enumerate() {
            if to.password.is_empty() {
                return Err(KeyError::MissingPassword);
            }
            let key = method.key(to.password.expose(), "decode psk")?;
            let name = spec::user_name(at, &to.name);
            let (identity, server) = (key.identity(), spec::server(&to.server));
            let block = block(&key)?;
            by_identity.insert(identity, Destination { name, block, server });
        }
        Ok(Self { block: block(&own)?, own, by_identity })
    }

    /// Takes the identity header off the head of a stream: where the rest goes, and what it begins with. `head` has
    /// [`Table::head`] bytes.
    fn peel_stream(&self, head: &[u8]) -> Result<(&Destination, Vec<u8>), WireError> {
        let short = || WireError::Header("short header");
        let (salt, rest) = head.split_at_checked(self.own.method.key_len()).ok_or_else(short)?;
        let (identity, rest) = rest.split_first_chunk::<BLOCK>().ok_or_else(short)?;
        let mut identity = *identity;
        self.own.identity_block(salt)?.decrypt(&mut identity);
        let to = self.by_identity.get(&identity).ok_or(WireError::User)?;
        Ok((to, [salt, rest].concat()))
    }

    /// Bytes of a stream that tell where it goes.
    fn head(&self) -> usize {
        self.own.method.key_len() + BLOCK
    }

    /// Takes the identity header off a datagram, in place: where it goes, and where the rest lies.
    fn peel_packet(&self, packet: &mut [u8]) -> Result<(&Destination, Range<usize>), WireError> {
        datagram::open_header(&self.block, packet)?;
        let identity = datagram::open_identity(&self.block, packet)?;
        let to = self.by_identity.get(&identity).ok_or(WireError::User)?;
        let short = || WireError::Header("short");
        let (header, rest) = packet.split_first_chunk_mut::<BLOCK>().ok_or_else(short)?;
        let place = rest.first_chunk_mut::<BLOCK>().ok_or_else(short)?;
        *place = *header;
        to.block.encrypt(place);
        Ok((to, BLOCK..packet.len()))
    }

    /// Whether the server of that name is the same in `other`.
    fn same(&self, other: &Self, name: &str) -> bool {
        let of = |table: &Self| {
            let mut of: Vec<_> = table
                .by_identity
                .iter()
                .filter(|(_, to)| *to.name == *name)
                .map(|(identity, to)| (*identity, to.server.clone()))
                .collect();
            of.sort_unstable_by_key(|(identity, _)| *identity);
            of
        };
        of(self) == of(other)
    }
}

/// A relay's options and what was made of them.
#[derive(Debug)]
pub(super) struct RelayIn {
    pub(super) options: ShadowsocksInOptions,
    pub(super) table: Arc<Table>,
}

impl RelayIn {
    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.options.listen,
            entrance: EntranceOptions::default(),
            multiplex: self.options.multiplex.as_ref(),
            udp_over_tcp: true,
        }
    }

    fn without_destinations(&self) -> ShadowsocksInOptions {
        ShadowsocksInOptions { destinations: Vec::new(), ..self.options.clone() }
    }
}

impl Spec for RelayIn {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.options.listen, out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.options.listen, &udp::networks(&self.options.network), out);
    }

    fn change(&self, next: &dyn Spec) -> Change {
        let same = |next: &Self| next.without_destinations() == self.without_destinations();
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let listen = &self.options.listen;
            let network = &self.options.network;
            let tcp = network.tcp().then(|| listen::tcp_listener(listen, &cx)).transpose()?;
            let udp = network.udp().then(|| listen::udp_socket(listen, &cx, true)).transpose()?;
            let relay = Relay { table: ArcSwap::new(self.table.clone()), last: Mutex::default() };
            let inbound = Inbound::new(&self.inbound(), relay, &cx)?;
            let control = Handle { cx: cx.clone(), inbound: inbound.clone() };
            Ok(Component {
                inject: Some(inbound.inject()),
                control: Some(Box::new(control)),
                run: Some(Box::pin(async move { udp::serve_both(&cx, &inbound, tcp, udp).await })),
                ..Component::default()
            })
        })
    }
}

/// Takes other servers.
struct Handle {
    cx: BuildCx,
    inbound: Arc<Inbound<Relay>>,
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<RelayIn>() else { return };
        let old = self.inbound.greeter().table.swap(next.table.clone());
        cut_strangers(&self.cx, |name| name.is_some_and(|name| next.table.same(&old, name)));
    }
}

/// A running relay.
struct Relay {
    table: ArcSwap<Table>,
    /// Whose datagram was opened last: a new client is that of the datagram before.
    last: Mutex<Option<Arc<str>>>,
}

impl Greeter for Relay {
    async fn greet(&self, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let table = self.table.load_full();
        let mut stream = arrived.stream;
        let mut head = Vec::with_capacity(2048);
        while head.len() < table.head() {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(Refused::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let (to, rest) = table.peel_stream(&head).map_err(Refused::client)?;
        Ok(Wanted::Flow {
            target: to.server.clone(),
            user: Some(to.name.clone()),
            flow: Flow::Stream(Box::new(Prefixed::new(rest.into(), stream))),
        })
    }

    fn knows(&self, user: Option<&str>) -> bool {
        let table = self.table.load();
        user.is_some_and(|name| table.by_identity.values().any(|to| *to.name == *name))
    }
}

impl Datagrams for Relay {
    fn open(&self, _: SocketAddr, packet: &mut [u8]) -> Result<(Range<usize>, Target), WireError> {
        let table = self.table.load();
        let (to, rest) = table.peel_packet(packet)?;
        *self.last.lock() = Some(to.name.clone());
        Ok((rest, to.server.clone()))
    }

    fn client(&self, _: SocketAddr, packets: BoxPacketIo) -> (Option<Arc<str>>, BoxPacketIo) {
        (self.last.lock().clone(), packets)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use crosspoint_kernel::flow::Batch;
    use crosspoint_schema::{decode::Secret, options::ServerOptions};
    use proptest::prelude::*;

    use super::*;
    use crate::shadowsocks::{
        datagram::{From, Place, SessionSealer},
        options::ShadowsocksDestination,
    };

    const METHOD: &str = "2022-blake3-aes-256-gcm";

    fn key(fill: u8) -> MasterKey {
        Method::named(METHOD).unwrap().key(&STANDARD.encode([fill; 32]), "").unwrap()
    }

    fn options(method: &str, password: &str) -> ShadowsocksInOptions {
        let to = |fill: u8, port| ShadowsocksDestination {
            name: if fill == 2 { String::new() } else { format!("to {fill}") },
            password: Secret::new(STANDARD.encode([fill; 32])),
            server: ServerOptions { server: "192.0.2.1".to_owned(), server_port: port },
        };
        ShadowsocksInOptions {
            method: method.to_owned(),
            password: Secret::new(password),
            destinations: vec![to(2, 2), to(3, 3)],
            ..ShadowsocksInOptions::default()
        }
    }

    fn table() -> Table {
        Table::new(&options(METHOD, &STANDARD.encode([1; 32]))).unwrap()
    }

    #[test]
    fn only_identity_headers_can_be_relayed() {
        let error = |method, password: &str| {
            Table::new(&options(method, password)).unwrap_err().to_string()
        };
        let long = STANDARD.encode([1; 32]);
        assert_eq!(error("aes-128-gcm", "x"), "invalid argument");
        assert_eq!(error("2022-blake3-chacha20-poly1305", &long), "invalid argument");
        assert_eq!(error(METHOD, ""), "missing psk");
        assert_eq!(error(METHOD, "AAAA"), "bad key");
    }

    #[test]
    fn a_stream_loses_the_header_of_this_relay_and_nothing_else() {
        let (table, salt) = (table(), [7; 32]);
        let mut identity = key(3).identity();
        table.own.identity_block(&salt).unwrap().encrypt(&mut identity);
        let head = [&salt[..], &identity, b"what follows"].concat();
        let (to, rest) = table.peel_stream(&head).unwrap();
        assert_eq!((&*to.name, to.server.port), ("to 3", 3));
        assert_eq!(rest, [&salt[..], b"what follows"].concat());
        let mut stranger = head;
        stranger[40] ^= 1;
        assert!(table.peel_stream(&stranger).is_err());
        assert!(table.peel_stream(&stranger[..40]).is_err());
    }

    #[test]
    fn a_datagram_goes_on_under_the_key_of_its_server() {
        let table = table();
        let place = Place { session: 9, number: 4 };
        let sealer = SessionSealer::new(&key(2), &[key(1)], 9).unwrap();
        let mut batch = Batch::new();
        assert!(batch.push(b"payload", Target::unspecified()));
        let peer = Target::new("192.0.2.7", 7);
        assert!(sealer.seal(&mut batch, 0, place, From::Client, &peer));
        let mut packet = batch.payload(0).to_vec();
        let (to, rest) = table.peel_packet(&mut packet).unwrap();
        assert_eq!((&*to.name, to.server.port), ("0", 2));
        // What the server behind makes of it, which has this key and no users.
        let packet = &mut packet[rest];
        let block = key(2).block().unwrap();
        assert_eq!(datagram::open_header(&block, packet).unwrap(), place);
        let session = key(2).session(&9u64.to_be_bytes()).unwrap();
        let (payload, to) = datagram::open_message(&session, packet, 16, From::Client).unwrap();
        assert_eq!((&packet[payload], to), (&b"payload"[..], peer));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>) {
            let table = table();
            prop_assert!(table.peel_stream(&bytes).is_err());
            prop_assert!(table.peel_packet(&mut bytes).is_err());
        }
    }
}
