//! Inbound `trojan`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{
    BuildCx, Change, Claims, Component, Conn, Control, Deps, Inject, Spec,
};
use crosspoint_kernel::dispatch::Dispatch;
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed};
use crosspoint_kernel::net::listen::{self, SessionDefaults};
use crosspoint_kernel::serve::{self, Accepted, HANDSHAKE_TIMEOUT, handshake};
use crosspoint_kernel::session::{Network, Session};
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, Entrance, EntranceOptions};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::options::ServerOptions;
use crosspoint_schema::{ConfigError, RawOptions};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, error, info};

use super::options::TrojanInOptions;
use super::wire::{self, Command, Datagrams, KEY, RequestError};
use crate::framed::Framed;
use crate::revoke::cut_strangers;
use crosspoint_layers::spec::{at_start, check, done, server};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "trojan", schema: TrojanInOptions::describe, canonical: |raw| raw.canonical::<TrojanInOptions>(), parse }
}

/// Longest request: what is longer is none.
const MOST: usize = KEY + 5 + crate::address::MAX;

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: TrojanInOptions = raw.parse()?;
    if let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) {
        tls.note_deprecated(raw.notices());
    }
    let spec = TrojanIn(options);
    check(&raw, "tls", spec.entrance().check())?;
    let options = &spec.0;
    let has_tls = options.tls.as_ref().is_some_and(|tls| tls.enabled);
    if !options.fallback_for_alpn.0.is_empty() && !has_tls {
        return Err(raw.invalid("fallback for ALPN is not supported without TLS"));
    }
    if options.multiplex.as_ref().is_some_and(|mux| mux.enabled) {
        return Err(raw.invalid_at("multiplex", "option `multiplex` is not in this build"));
    }
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(spec)
}

#[derive(Debug)]
struct TrojanIn(TrojanInOptions);

impl TrojanIn {
    fn entrance(&self) -> EntranceOptions<'_> {
        EntranceOptions { tls: self.0.tls.as_ref(), transport: self.0.transport.as_ref() }
    }

    fn without_users(&self) -> TrojanInOptions {
        TrojanInOptions { users: Vec::new(), ..self.0.clone() }
    }

    fn users(&self) -> Users {
        let users = self.0.users.iter().enumerate().map(|(at, user)| {
            let name = if user.name.is_empty() {
                at.to_string().into()
            } else {
                user.name.as_str().into()
            };
            (wire::key(user.password.expose()), name)
        });
        Users(users.collect())
    }
}

/// Users by key.
#[derive(Debug, Default)]
struct Users(HashMap<[u8; KEY], Arc<str>>);

impl Users {
    fn has(&self, name: &str) -> bool {
        self.0.values().any(|known| **known == *name)
    }

    /// Whether the user of that name has the same keys in `other`.
    fn same_user(&self, other: &Self, name: &str) -> bool {
        let keys = |users: &Self| {
            let mut keys: Vec<[u8; KEY]> = users
                .0
                .iter()
                .filter(|(_, known)| ***known == *name)
                .map(|(key, _)| *key)
                .collect();
            keys.sort_unstable();
            keys
        };
        keys(self) == keys(other)
    }
}

impl Spec for TrojanIn {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.0.listen, out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.0.listen, &[Network::Tcp], out);
    }

    fn change(&self, next: &dyn Spec) -> Change {
        let same = |next: &Self| next.without_users() == self.without_users();
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let listen = &self.0.listen;
            let listener = listen::tcp_listener(listen, &cx)?;
            let target = |options: &ServerOptions| server(options);
            let server = Arc::new(Server {
                dispatch: Dispatch::new(cx.plane.clone()),
                entrance: Entrance::new(&self.entrance())?,
                users: ArcSwap::from_pointee(self.users()),
                fallback: self.0.fallback.as_ref().filter(|to| !to.server.is_empty()).map(target),
                by_alpn: self
                    .0
                    .fallback_for_alpn
                    .0
                    .iter()
                    .map(|(alpn, to)| (alpn.as_bytes().into(), target(to)))
                    .collect(),
                defaults: SessionDefaults::new(listen),
                cx: cx.clone(),
            });
            let control = Handle(server.clone());
            let inject = Injected(server.clone());
            let run = async move {
                server.entrance.watch(&cx);
                // A predecessor may have had users that this instance does not know.
                let users = server.users.load_full();
                cut_strangers(&cx, |name| users.has(name));
                serve::tcp(listener, cx, move |accepted| {
                    let Accepted { id, stream, peer, permit } = accepted;
                    server.clone().serve(id, Box::new(stream), peer, permit)
                })
                .await
            };
            Ok(Component {
                inject: Some(Arc::new(inject)),
                control: Some(Box::new(control)),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

/// Takes other users.
struct Handle(Arc<Server>);

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<TrojanIn>() else { return };
        let next = Arc::new(next.users());
        let old = self.0.users.swap(next.clone());
        cut_strangers(&self.0.cx, |name| next.same_user(&old, name));
    }
}

/// A running inbound.
struct Server {
    cx: BuildCx,
    dispatch: Dispatch,
    entrance: Entrance,
    users: ArcSwap<Users>,
    fallback: Option<Target>,
    by_alpn: HashMap<Box<[u8]>, Target>,
    defaults: SessionDefaults,
}

/// What a stream wants.
struct Wanted {
    network: Network,
    target: Target,
    user: Option<Arc<str>>,
    flow: Flow,
}

impl Server {
    async fn serve(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        // The permit of the connection is that of its first stream; further ones take their own.
        let first = Mutex::new(Some((id, permit)));
        let admitted = Box::pin(self.entrance.admit(stream, |arrived| {
            let first = first.lock().take();
            self.clone().arrived(first, arrived, peer)
        }));
        if let Err(error) = admitted.await {
            let me = &self.cx.me;
            if error.is_quiet() {
                debug!(conn = id, component = %me, "connection from {peer}: {error}");
            } else {
                error!(conn = id, component = %me, "process connection from {peer}: {error}");
            }
        }
    }

    async fn arrived(
        self: Arc<Self>,
        first: Option<(u64, OwnedSemaphorePermit)>,
        arrived: Arrived,
        peer: SocketAddr,
    ) {
        let (id, permit) = match first {
            Some(first) => first,
            None => {
                // The permits are never closed.
                let Ok(permit) = serve::permits().acquire_owned().await else { return };
                (self.cx.plane.ledger.next_id(), permit)
            }
        };
        if let Some(conn) = Box::pin(self.clone().begin(id, arrived, peer, permit)).await {
            self.dispatch.conn(conn).await;
        }
    }

    async fn begin(
        self: Arc<Self>,
        id: u64,
        arrived: Arrived,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<Conn> {
        let me = self.cx.me.clone();
        match handshake(HANDSHAKE_TIMEOUT, self.read_request(id, arrived)).await {
            Ok(wanted) => {
                let Wanted { network, target, user, flow } = wanted;
                let mut session = Session::new(id, me, network, peer, target);
                session.user = user;
                self.defaults.apply(&mut session);
                Some(Conn { session, flow, permit })
            }
            Err(Refused::Io(error)) => {
                debug!(conn = id, component = %me, "connection from {peer}: {error}");
                None
            }
            Err(error) => {
                error!(conn = id, component = %me, "process connection from {peer}: {error}");
                None
            }
        }
    }

    async fn read_request(&self, id: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let Arrived { mut stream, alpn } = arrived;
        let mut held = Vec::with_capacity(256);
        while held.len() < KEY && wire::may_be_key(&held) {
            if stream.read_buf(&mut held).await? == 0 {
                break;
            }
        }
        let key = held.first_chunk::<KEY>().filter(|_| wire::may_be_key(&held));
        let user = key.and_then(|key| self.users.load().0.get(key).cloned());
        let Some(user) = user else { return self.fall_back(id, stream, held, alpn.as_deref()) };
        let (command, target, len) = loop {
            match wire::parse_request(&held[KEY..]) {
                Ok(found) => break found,
                Err(RequestError::Incomplete(_)) if held.len() < MOST => {
                    if stream.read_buf(&mut held).await? == 0 {
                        return Err(Refused::Io(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => return Err(Refused::Request(error)),
            }
        };
        held.drain(..KEY + len);
        if !held.is_empty() {
            stream = Box::new(Prefixed::new(held.into(), stream));
        }
        let (network, flow) = match command {
            Command::Connect => (Network::Tcp, Flow::Stream(stream)),
            Command::Associate => {
                (Network::Udp, Flow::Packet(Framed::boxed(stream, Datagrams, &[])))
            }
            Command::Mux => return Err(Refused::Mux),
        };
        Ok(Wanted { network, target, user: Some(user), flow })
    }

    /// What is not for us goes to the server that is configured for it, with all bytes that were read.
    fn fall_back(
        &self,
        id: u64,
        mut stream: BoxStream,
        held: Vec<u8>,
        alpn: Option<&[u8]>,
    ) -> Result<Wanted, Refused> {
        let target = match alpn {
            Some(alpn) if !self.by_alpn.is_empty() => self.by_alpn.get(alpn),
            _ => self.fallback.as_ref(),
        };
        let target = target.ok_or(Refused::NoFallback)?.clone();
        info!(conn = id, component = %self.cx.me, "fallback connection to {target}");
        if !held.is_empty() {
            stream = Box::new(Prefixed::new(held.into(), stream));
        }
        Ok(Wanted { network: Network::Tcp, target, user: None, flow: Flow::Stream(stream) })
    }
}

/// Why a stream is not served.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Request(RequestError),
    #[error("bad request: fallback disabled")]
    NoFallback,
    #[error("trojan-go multiplex is not in this build")]
    Mux,
}

/// Takes connections of other inbounds (listen field `detour`).
struct Injected(Arc<Server>);

impl Inject for Injected {
    fn inject(&self, conn: Conn) -> Result<(), Conn> {
        let Conn { session, flow, permit } = conn;
        match flow {
            Flow::Stream(stream) => {
                tokio::spawn(self.0.clone().serve(session.id, stream, session.source, permit));
                Ok(())
            }
            flow => Err(Conn { session, flow, permit }),
        }
    }
}
