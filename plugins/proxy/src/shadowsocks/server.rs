//! Inbound `shadowsocks`.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Change, Claims, Component, Control, Deps, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, Flow};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{
    Greeter, Inbound, InboundOptions, Refused, Wanted, cut_strangers,
};
use crosspoint_layers::spec::{at_start, check, done};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tracing::error;

use super::accept::{AcceptError, accept};
use super::keys::ServerKeys;
use super::method::KeyError;
use super::options::ShadowsocksInOptions;
use super::packets::Answers;
use super::relay::{RelayIn, Table};
use super::replay::Salts;
use super::sessions::Sessions;
use super::udp::{self, Datagrams};
use super::wire::WireError;

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
    check(&raw, "multiplex", unpack::check(options.multiplex.as_ref()))?;
    let invalid = |error: KeyError| raw.invalid(error.to_string());
    if !options.destinations.is_empty() {
        let table = Table::new(&options).map_err(invalid)?;
        at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
        return done(RelayIn { options, table: Arc::new(table) });
    }
    let keys = ServerKeys::new(&options).map_err(invalid)?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(ShadowsocksIn { options, keys: Arc::new(keys) })
}

#[derive(Debug)]
struct ShadowsocksIn {
    options: ShadowsocksInOptions,
    keys: Arc<ServerKeys>,
}

impl ShadowsocksIn {
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
        listen::claims(&self.options.listen, &udp::networks(&self.options.network), out);
    }

    fn takes_users(&self) -> bool {
        // Where the server's key is everybody's there is nobody to tell apart.
        !self.keys.is_shared()
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
            let network = &self.options.network;
            let tcp = network.tcp().then(|| listen::tcp_listener(listen, &cx)).transpose()?;
            let udp = network.udp().then(|| listen::udp_socket(listen, &cx, true)).transpose()?;
            let roll = cx.plane.users.get(&cx.me.tag).filter(|_| self.takes_users());
            let managed = roll.map(|roll| roll.users()).unwrap_or_default();
            let keys = Arc::new(with_managed(&cx, &self.keys, &managed));
            let sessions = Sessions::new(keys.clone()).map_err(BuildError::options)?;
            let in_force = InForce { keys, sessions: Arc::new(sessions) };
            let greeter =
                Shadowsocks { keys: ArcSwap::from_pointee(in_force), salts: Salts::default() };
            let inbound = Inbound::new(&self.inbound(), greeter, &cx)?;
            let control = Handle {
                cx: cx.clone(),
                inbound: inbound.clone(),
                configured: self.keys.clone(),
                managed,
            };
            Ok(Component {
                inject: Some(inbound.inject()),
                control: Some(Box::new(control)),
                run: Some(Box::pin(async move { udp::serve_both(&cx, &inbound, tcp, udp).await })),
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

/// Configured users and managed ones.
fn with_managed(cx: &BuildCx, configured: &ServerKeys, managed: &[User]) -> ServerKeys {
    configured.with_managed(managed, |user, why| {
        error!(component = %cx.me, "user {} is left out: {why}", user.name);
    })
}

/// The protocol over streams and datagrams.
struct Shadowsocks {
    keys: ArcSwap<InForce>,
    salts: Salts,
}

impl Greeter for Shadowsocks {
    async fn greet(&self, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let keys = self.keys.load_full();
        match accept(arrived.stream, &keys.keys, &self.salts).await {
            Ok(request) => {
                // Users may have changed while the request was read: then nobody has cut this flow.
                let now = self.keys.load();
                let stays = |name: &Arc<str>| now.keys.unchanged(&keys.keys).contains_key(&**name);
                if !Arc::ptr_eq(&now, &keys) && !request.user.as_ref().is_none_or(stays) {
                    return Err(Refused::client(WireError::User));
                }
                Ok(Wanted::Flow {
                    target: request.target,
                    user: request.user,
                    flow: Flow::Stream(request.stream),
                })
            }
            Err(AcceptError::Io(error)) => Err(Refused::Io(error)),
            Err(AcceptError::Wire(error)) => Err(Refused::client(error)),
        }
    }

    fn knows(&self, user: Option<&str>) -> bool {
        self.keys.load().keys.knows(user)
    }
}

impl Datagrams for Shadowsocks {
    fn open(
        &self,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target), WireError> {
        self.keys.load().sessions.open(source, packet)
    }

    fn client(&self, source: SocketAddr, packets: BoxPacketIo) -> (Option<Arc<str>>, BoxPacketIo) {
        let sessions = self.keys.load().sessions.clone();
        let user = sessions.client(source).and_then(|client| client.user);
        (user, Box::new(Answers::new(packets, source, sessions)))
    }
}

/// Takes other users.
struct Handle {
    cx: BuildCx,
    inbound: Arc<Inbound<Shadowsocks>>,
    configured: Arc<ServerKeys>,
    managed: Arc<[User]>,
}

impl Handle {
    fn apply(&self) {
        let keys = Arc::new(with_managed(&self.cx, &self.configured, &self.managed));
        let in_force = &self.inbound.greeter().keys;
        let old = in_force.load_full();
        match old.sessions.under(keys.clone()) {
            Ok(sessions) => {
                in_force
                    .store(Arc::new(InForce { keys: keys.clone(), sessions: Arc::new(sessions) }));
                // Without users nobody is told apart.
                if !keys.is_shared() {
                    let same = keys.unchanged(&old.keys);
                    cut_strangers(&self.cx, |user| {
                        user.is_some_and(|name| same.contains_key(name))
                    });
                }
            }
            Err(error) => error!(component = %self.cx.me, "take other users: {error}"),
        }
    }
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<ShadowsocksIn>() else { return };
        self.configured = next.keys.clone();
        self.apply();
    }

    fn check_user(&self, user: &User) -> Result<(), String> {
        self.configured.check(user)
    }

    fn set_users(&mut self, users: &[User]) {
        if *self.managed != *users {
            self.managed = users.into();
            self.apply();
        }
    }
}
