//! Inbound `shadowsocks`.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{
    BuildCx, Change, Claims, Component, Conn, Control, Deps, Fault, Inject, Spec,
};
use crosspoint_kernel::dispatch::Dispatch;
use crosspoint_kernel::flow::{BoxStream, Flow};
use crosspoint_kernel::net::listen::{self, Bound, SessionDefaults};
use crosspoint_kernel::net::udp::{Nat, NewSession};
use crosspoint_kernel::serve::{self, Accepted, HANDSHAKE_TIMEOUT, handshake};
use crosspoint_kernel::session::{Network, Session};
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, error, warn};

use super::accept::{AcceptError, accept};
use super::keys::ServerKeys;
use super::options::ShadowsocksInOptions;
use super::packets::Answers;
use super::replay::Salts;
use super::sessions::Sessions;
use crosspoint_layers::inbound::cut_strangers;
use crosspoint_layers::spec::{at_start, done};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "shadowsocks", schema: ShadowsocksInOptions::describe, canonical: |raw| raw.canonical::<ShadowsocksInOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: ShadowsocksInOptions = raw.parse()?;
    let several = !options.users.is_empty() && !options.destinations.is_empty();
    if several {
        return Err(raw.invalid("users and destinations options must not be combined"));
    }
    if options.managed && !(options.users.is_empty() && options.destinations.is_empty()) {
        return Err(
            raw.invalid("users and destinations options are not supported in managed servers")
        );
    }
    for (used, what) in [
        (options.managed, "managed"),
        (!options.destinations.is_empty(), "destinations"),
        (options.multiplex.as_ref().is_some_and(|mux| mux.enabled), "multiplex"),
    ] {
        if used {
            return Err(raw.invalid_at(what, format!("option `{what}` is not in this build")));
        }
    }
    let keys = ServerKeys::new(&options).map_err(|error| raw.invalid(error.to_string()))?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(ShadowsocksIn { options, keys: Arc::new(keys) })
}

#[derive(Debug)]
struct ShadowsocksIn {
    options: ShadowsocksInOptions,
    keys: Arc<ServerKeys>,
}

impl ShadowsocksIn {
    fn networks(&self) -> Vec<Network> {
        let network = &self.options.network;
        let all = [(Network::Tcp, network.tcp()), (Network::Udp, network.udp())];
        all.into_iter().filter_map(|(network, has)| has.then_some(network)).collect()
    }

    fn without_users(&self) -> ShadowsocksInOptions {
        ShadowsocksInOptions { users: Vec::new(), ..self.options.clone() }
    }
}

impl Spec for ShadowsocksIn {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.options.listen, out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.options.listen, &self.networks(), out);
    }

    fn change(&self, next: &dyn Spec) -> Change {
        let same = |next: &Self| {
            next.without_users() == self.without_users()
                && next.keys.is_shared() == self.keys.is_shared()
        };
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let listen = &self.options.listen;
            let networks = self.networks();
            let tcp = networks
                .contains(&Network::Tcp)
                .then(|| listen::tcp_listener(listen, &cx))
                .transpose()?;
            let udp = networks
                .contains(&Network::Udp)
                .then(|| listen::udp_socket(listen, &cx, true))
                .transpose()?;
            let server = Arc::new(Server {
                dispatch: Dispatch::new(cx.plane.clone()),
                keys: ArcSwap::new(Arc::new(InForce::new(self.keys.clone())?)),
                salts: Salts::default(),
                defaults: SessionDefaults::new(listen),
                cx: cx.clone(),
            });
            let control = Handle(server.clone());
            let inject = Injected(server.clone());
            let run = async move {
                // A predecessor may have had users that this instance does not know.
                server.cut(|keys, name| keys.is_shared() || keys.has(name));
                let streams = server.clone();
                let streams = async {
                    match tcp {
                        Some(tcp) => {
                            serve::tcp(tcp, cx.clone(), move |accepted| {
                                let Accepted { id, stream, peer, permit } = accepted;
                                streams.clone().serve(id, Box::new(stream), peer, permit)
                            })
                            .await
                        }
                        None => std::future::pending().await,
                    }
                };
                let packets = async {
                    match udp {
                        Some(udp) => server.clone().packets(udp).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    end = streams => end,
                    end = packets => end,
                }
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

/// Keys, and the datagram sessions with them.
struct InForce {
    keys: Arc<ServerKeys>,
    sessions: Arc<Sessions>,
}

impl InForce {
    fn new(keys: Arc<ServerKeys>) -> Result<Self, BuildError> {
        let sessions = Sessions::new(keys.clone()).map_err(BuildError::options)?;
        Ok(Self { keys, sessions: Arc::new(sessions) })
    }
}

/// Takes other users.
struct Handle(Arc<Server>);

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<ShadowsocksIn>() else { return };
        match InForce::new(next.keys.clone()) {
            Ok(next) => {
                let old = self.0.keys.swap(Arc::new(next));
                self.0.cut(|keys, name| keys.same_user(&old.keys, name));
            }
            Err(error) => error!(component = %self.0.cx.me, "take other users: {error}"),
        }
    }
}

/// A running inbound.
struct Server {
    cx: BuildCx,
    dispatch: Dispatch,
    keys: ArcSwap<InForce>,
    salts: Salts,
    defaults: SessionDefaults,
}

impl Server {
    /// Ends the flows of users who may not use the server any more. Without users nobody is told apart.
    fn cut(&self, stays: impl Fn(&ServerKeys, &str) -> bool) {
        let now = self.keys.load();
        if !now.keys.is_shared() {
            cut_strangers(&self.cx, |name| stays(&now.keys, name));
        }
    }

    fn session(
        &self,
        id: u64,
        network: Network,
        peer: SocketAddr,
        target: Target,
        user: Option<Arc<str>>,
    ) -> Box<Session> {
        let mut session = Session::new(id, self.cx.me.clone(), network, peer, target);
        session.user = user;
        self.defaults.apply(&mut session);
        session
    }

    fn serve(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send {
        let begin = Box::pin(self.clone().begin(id, stream, peer, permit));
        async move {
            if let Some(conn) = begin.await {
                self.dispatch.conn(conn).await;
            }
        }
    }

    async fn begin(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<Conn> {
        let keys = self.keys.load_full();
        match handshake(HANDSHAKE_TIMEOUT, accept(stream, &keys.keys, &self.salts)).await {
            Ok(request) => {
                let session = self.session(id, Network::Tcp, peer, request.target, request.user);
                Some(Conn { session, flow: Flow::Stream(request.stream), permit })
            }
            Err(AcceptError::Io(error)) => {
                debug!(conn = id, component = %self.cx.me, "connection from {peer}: {error}");
                None
            }
            Err(AcceptError::Wire(error)) => {
                error!(conn = id, component = %self.cx.me, "process connection from {peer}: {error}");
                None
            }
        }
    }

    async fn packets(self: Arc<Self>, socket: Bound<UdpSocket>) -> Result<(), Fault> {
        let fault = |what: &str, error: std::io::Error| Fault(format!("{what}: {error}"));
        socket.tune().map_err(|e| fault("set options of the socket", e))?;
        let nat = Nat::on(&socket).map_err(|e| fault("prepare the socket", e))?;
        let classify = |source: SocketAddr, packet: &mut [u8]| match self
            .keys
            .load()
            .sessions
            .open(source, packet)
        {
            Ok(opened) => Some(opened),
            Err(error) => {
                debug!(component = %self.cx.me, "process packet from {source}: {error}");
                None
            }
        };
        let admit = |new: NewSession| {
            let NewSession { source, target, packets, .. } = new;
            let Some(permit) = serve::permit() else {
                warn!(component = %self.cx.me, "packet connection from {source} dropped: too many connections");
                return;
            };
            let sessions = self.keys.load().sessions.clone();
            let user = sessions.client(source).and_then(|client| client.user);
            let id = self.cx.plane.ledger.next_id();
            let session = self.session(id, Network::Udp, source, target, user);
            let packets = Box::new(Answers::new(packets, source, sessions));
            let conn = Conn { session, flow: Flow::Packet(packets), permit };
            let dispatch = self.dispatch.clone();
            tokio::spawn(async move { dispatch.conn(conn).await });
        };
        let beat = async {
            loop {
                self.cx.pulse.beat().await;
            }
        };
        tokio::select! {
            () = self.cx.cancel.cancelled() => Ok(()),
            error = nat.serve(classify, admit) => Err(fault("receive", error)),
            () = beat => Ok(()),
        }
    }
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
