//! Inbound `shadowsocks`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Fault, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, Flow};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{Greeter, Inbound, InboundOptions, Refused, Wanted};
use crosspoint_layers::offer::{Offer, Offered, Sockets};
use crosspoint_layers::roster::Roster;
use crosspoint_layers::spec::{at_start, check, done};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::Options as _;
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
        return done(Offered::new(RelayIn { options, table: Arc::new(table) }));
    }
    let keys = ServerKeys::new(&options).map_err(invalid)?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(Offered::new(ShadowsocksIn { options, keys: Arc::new(keys) }))
}

#[derive(Debug)]
struct ShadowsocksIn {
    options: ShadowsocksInOptions,
    keys: Arc<ServerKeys>,
}

impl ShadowsocksIn {
    fn without_users(&self) -> ShadowsocksInOptions {
        ShadowsocksInOptions { users: Vec::new(), ..self.options.clone() }
    }
}

/// What an inbound of both kinds has in common with those of other protocols.
pub(super) fn inbound(options: &ShadowsocksInOptions) -> InboundOptions<'_> {
    InboundOptions {
        listen: &options.listen,
        entrance: EntranceOptions::default(),
        multiplex: options.multiplex.as_ref(),
        udp_over_tcp: true,
    }
}

impl Offer for ShadowsocksIn {
    type Options = ShadowsocksInOptions;
    type Greeter = Shadowsocks;

    fn options(&self) -> &ShadowsocksInOptions {
        &self.options
    }

    fn inbound(&self) -> InboundOptions<'_> {
        inbound(&self.options)
    }

    fn networks(&self) -> Vec<Network> {
        udp::networks(&self.options.network)
    }

    fn differs_in_users(&self, next: &Self) -> bool {
        next.without_users() == self.without_users()
            && next.keys.is_shared() == self.keys.is_shared()
    }

    fn takes_users(&self) -> bool {
        // Where the server's key is everybody's there is nobody to tell apart.
        !self.keys.is_shared()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.options.users.iter().map(|user| user.name.as_str())
    }

    fn users(
        &self,
        managed: &[User],
        old: Option<&InForce>,
        cx: &BuildCx,
    ) -> Result<InForce, BuildError> {
        let keys = Arc::new(self.keys.with_managed(managed, |user, why| {
            error!(component = %cx.me, "user {} is left out: {why}", user.name);
        }));
        let sessions = match old {
            Some(old) => old.sessions.under(keys.clone()),
            None => Sessions::new(keys.clone()),
        };
        let sessions = sessions.map_err(BuildError::options)?;
        Ok(InForce { keys, sessions: Arc::new(sessions) })
    }

    fn check_secret(&self, user: &User) -> Result<(), String> {
        self.keys.check(user)
    }

    fn greeter(&self, _: &BuildCx) -> Shadowsocks {
        Shadowsocks { salts: Salts::default() }
    }

    fn serve(
        inbound: Arc<Inbound<Shadowsocks>>,
        cx: BuildCx,
        sockets: Sockets,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async move { udp::serve_both(&cx, &inbound, sockets).await })
    }
}

/// Keys, and the datagram sessions with them.
struct InForce {
    keys: Arc<ServerKeys>,
    sessions: Arc<Sessions>,
}

impl Roster for InForce {
    fn has(&self, user: Option<&str>) -> bool {
        self.keys.knows(user)
    }

    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a {
        // Without users nobody is told apart.
        let same = (!self.keys.is_shared()).then(|| self.keys.unchanged(&old.keys));
        move |user| {
            let stays = |same: &HashMap<&str, _>| user.is_some_and(|name| same.contains_key(name));
            same.as_ref().is_none_or(stays)
        }
    }
}

/// The protocol over streams and datagrams.
struct Shadowsocks {
    salts: Salts,
}

impl Greeter for Shadowsocks {
    type Users = InForce;

    async fn greet(&self, users: &InForce, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        match accept(arrived.stream, &users.keys, &self.salts).await {
            Ok(request) => Ok(Wanted::Flow {
                target: request.target,
                user: request.user,
                flow: Flow::Stream(request.stream),
            }),
            Err(AcceptError::Io(error)) => Err(Refused::Io(error)),
            Err(AcceptError::Wire(error)) => Err(Refused::client(error)),
        }
    }
}

impl Datagrams for Shadowsocks {
    fn open(
        &self,
        users: &InForce,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target), WireError> {
        users.sessions.open(source, packet)
    }

    fn client(
        &self,
        users: &InForce,
        source: SocketAddr,
        packets: BoxPacketIo,
    ) -> (Option<Arc<str>>, BoxPacketIo) {
        let sessions = users.sessions.clone();
        let user = sessions.client(source).and_then(|client| client.user);
        (user, Box::new(Answers::new(packets, source, sessions)))
    }
}
