//! Inbound `shadowsocks` with `destinations`: a relay of SIP022. It takes the identity header that is meant for it off
//! each stream and datagram, which says which server comes next, and hands the rest on without being able to read it.
//!
//! Source: SIP022 §3.1.2 and §3.2.2, SIP023; sing-shadowsocks `shadowaead_2022/relay.go` for what a relay accepts.

use std::{collections::HashMap, net::SocketAddr, ops::Range, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildError,
    addr::Target,
    component::{BuildCx, Fault},
    flow::{BoxPacketIo, Flow, Prefixed},
    session::Network,
    users::User,
};
use crosspoint_layers::{
    entrance::Arrived,
    inbound::{Greeter, Inbound, InboundOptions, Refused, Wanted},
    offer::{Offer, Sockets},
    roster::{Roster, unchanged},
    spec,
};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;

use super::{
    cipher::{BLOCK, Block},
    datagram,
    method::{Family, KeyError, MasterKey, Method},
    options::ShadowsocksInOptions,
    server,
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

    fn named(&self) -> impl Iterator<Item = (&str, (&[u8; BLOCK], &Target))> {
        self.by_identity.iter().map(|(identity, to)| (&*to.name, (identity, &to.server)))
    }
}

/// The servers in force.
pub(super) struct Servers(Arc<Table>);

impl Roster for Servers {
    fn has(&self, user: Option<&str>) -> bool {
        user.is_some_and(|name| self.0.by_identity.values().any(|to| *to.name == *name))
    }

    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a {
        let same = unchanged(self.0.named(), old.0.named());
        move |name| name.is_some_and(|name| same.contains(name))
    }
}

/// A relay's options and what was made of them.
#[derive(Debug)]
pub(super) struct RelayIn {
    pub(super) options: ShadowsocksInOptions,
    pub(super) table: Arc<Table>,
}

impl RelayIn {
    fn without_destinations(&self) -> ShadowsocksInOptions {
        ShadowsocksInOptions { destinations: Vec::new(), ..self.options.clone() }
    }
}

impl Offer for RelayIn {
    type Options = ShadowsocksInOptions;
    type Greeter = Relay;

    fn options(&self) -> &ShadowsocksInOptions {
        &self.options
    }

    fn inbound(&self) -> InboundOptions<'_> {
        server::inbound(&self.options)
    }

    fn networks(&self) -> Vec<Network> {
        udp::networks(&self.options.network)
    }

    fn differs_in_users(&self, next: &Self) -> bool {
        next.without_destinations() == self.without_destinations()
    }

    fn takes_users(&self) -> bool {
        false
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.options.destinations.iter().map(|to| to.name.as_str())
    }

    fn users(&self, _: &[User], _: Option<&Servers>, _: &BuildCx) -> Result<Servers, BuildError> {
        Ok(Servers(self.table.clone()))
    }

    fn check_secret(&self, _: &User) -> Result<(), String> {
        Err("a relay takes no users".to_owned())
    }

    fn greeter(&self, _: &BuildCx) -> Relay {
        Relay { last: Mutex::default() }
    }

    fn serve(
        inbound: Arc<Inbound<Relay>>,
        cx: BuildCx,
        sockets: Sockets,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async move { udp::serve_both(&cx, &inbound, sockets).await })
    }
}

/// A running relay.
pub(super) struct Relay {
    /// Whose datagram was opened last: a new client is that of the datagram before.
    last: Mutex<Option<Arc<str>>>,
}

impl Greeter for Relay {
    type Users = Servers;

    async fn greet(
        &self,
        Servers(table): &Servers,
        _: u64,
        arrived: Arrived,
    ) -> Result<Wanted, Refused> {
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
}

impl Datagrams for Relay {
    fn open(
        &self,
        Servers(table): &Servers,
        _: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target), WireError> {
        let (to, rest) = table.peel_packet(packet)?;
        *self.last.lock() = Some(to.name.clone());
        Ok((rest, to.server.clone()))
    }

    fn client(
        &self,
        _: &Servers,
        _: SocketAddr,
        packets: BoxPacketIo,
    ) -> (Option<Arc<str>>, BoxPacketIo) {
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
