//! Inbound `shadowsocks`.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::component::{
    BuildCx, Change, Claims, Component, Conn, Control, Deps, Fault, Spec,
};
use crosspoint_kernel::flow::Flow;
use crosspoint_kernel::net::listen::{self, Bound};
use crosspoint_kernel::net::udp::{Nat, NewSession};
use crosspoint_kernel::serve;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{
    Greeter, Inbound, InboundOptions, Refused, Wanted, cut_strangers,
};
use crosspoint_layers::spec::{at_start, done};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::net::UdpSocket;
use tracing::{debug, error, warn};

use super::accept::{AcceptError, accept};
use super::keys::ServerKeys;
use super::options::ShadowsocksInOptions;
use super::packets::Answers;
use super::replay::Salts;
use super::sessions::Sessions;

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

    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.options.listen,
            entrance: EntranceOptions::default(),
            multiplex: self.options.multiplex.as_ref(),
            udp_over_tcp: true,
        }
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
            let greeter = Shadowsocks {
                keys: ArcSwap::new(Arc::new(InForce::new(self.keys.clone())?)),
                salts: Salts::default(),
            };
            let inbound = Inbound::new(&self.inbound(), greeter, &cx)?;
            let server = Server { cx, inbound };
            let inject = server.inbound.inject();
            let control = server.clone();
            let run = async move {
                let streams = async {
                    match tcp {
                        Some(tcp) => server.inbound.clone().run(tcp).await,
                        None => std::future::pending().await,
                    }
                };
                let packets = async {
                    match udp {
                        Some(udp) => server.packets(udp).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    end = streams => end,
                    end = packets => end,
                }
            };
            Ok(Component {
                inject: Some(inject),
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

/// The protocol over streams.
struct Shadowsocks {
    keys: ArcSwap<InForce>,
    salts: Salts,
}

impl Greeter for Shadowsocks {
    async fn greet(&self, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let keys = self.keys.load_full();
        match accept(arrived.stream, &keys.keys, &self.salts).await {
            Ok(request) => Ok(Wanted::Flow {
                target: request.target,
                user: request.user,
                flow: Flow::Stream(request.stream),
            }),
            Err(AcceptError::Io(error)) => Err(Refused::Io(error)),
            Err(AcceptError::Wire(error)) => Err(Refused::client(error)),
        }
    }

    fn knows(&self, user: Option<&str>) -> bool {
        self.keys.load().keys.knows(user)
    }
}

/// A running inbound.
#[derive(Clone)]
struct Server {
    cx: BuildCx,
    inbound: Arc<Inbound<Shadowsocks>>,
}

impl Control for Server {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<ShadowsocksIn>() else { return };
        match InForce::new(next.keys.clone()) {
            Ok(next) => {
                let next = Arc::new(next);
                let old = self.inbound.greeter().keys.swap(next.clone());
                let (old, next) = (&old.keys, &next.keys);
                // Without users nobody is told apart.
                cut_strangers(&self.cx, |user| {
                    next.is_shared() || user.is_some_and(|name| next.same_user(old, name))
                });
            }
            Err(error) => error!(component = %self.cx.me, "take other users: {error}"),
        }
    }
}

impl Server {
    async fn packets(&self, socket: Bound<UdpSocket>) -> Result<(), Fault> {
        let fault = |what: &str, error: std::io::Error| Fault(format!("{what}: {error}"));
        socket.tune().map_err(|e| fault("set options of the socket", e))?;
        let nat = Nat::on(&socket).map_err(|e| fault("prepare the socket", e))?;
        let keys = &self.inbound.greeter().keys;
        let classify =
            |source: SocketAddr, packet: &mut [u8]| match keys.load().sessions.open(source, packet)
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
            let sessions = keys.load().sessions.clone();
            let user = sessions.client(source).and_then(|client| client.user);
            let id = self.cx.plane.ledger.next_id();
            let session = self.inbound.session(id, Network::Udp, source, target, user);
            let packets = Box::new(Answers::new(packets, source, sessions));
            let conn = Conn { session, flow: Flow::Packet(packets), permit };
            let unpack = self.inbound.unpack().clone();
            tokio::spawn(async move { unpack.conn(conn).await });
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
