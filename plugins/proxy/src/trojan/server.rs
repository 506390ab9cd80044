//! Inbound `trojan`.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Change, Claims, Component, Control, Deps, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{
    Greeter, Inbound, InboundOptions, Refused, Run, Wanted, cut_strangers,
};
use crosspoint_layers::spec::{at_start, check, done, server, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::options::ServerOptions;
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::io::AsyncReadExt as _;
use tracing::info;

use super::mux;
use super::options::TrojanInOptions;
use super::wire::{self, Command, Datagrams, KEY, RequestError};
use crate::framed::Framed;

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
    check(&raw, "multiplex", unpack::check(options.multiplex.as_ref()))?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(spec)
}

#[derive(Debug)]
struct TrojanIn(TrojanInOptions);

impl TrojanIn {
    fn entrance(&self) -> EntranceOptions<'_> {
        EntranceOptions { tls: self.0.tls.as_ref(), transport: self.0.transport.as_ref() }
    }

    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.0.listen,
            entrance: self.entrance(),
            multiplex: self.0.multiplex.as_ref(),
            udp_over_tcp: false,
        }
    }

    fn without_users(&self) -> TrojanInOptions {
        TrojanInOptions { users: Vec::new(), ..self.0.clone() }
    }

    /// Configured users and managed ones. Who is configured stays who he is.
    fn users(&self, managed: &[User]) -> Users {
        let managed = managed.iter().filter(|user| !self.configures(&user.name));
        let managed = managed.map(|user| (wire::key(user.secret.expose()), user.name.clone()));
        let users = self
            .0
            .users
            .iter()
            .enumerate()
            .map(|(at, user)| (wire::key(user.password.expose()), user_name(at, &user.name)));
        Users(managed.chain(users).collect())
    }

    /// Whether a configured user has that name.
    fn configures(&self, name: &str) -> bool {
        let mut users = self.0.users.iter().enumerate();
        users.any(|(at, user)| *user_name(at, &user.name) == *name)
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

    fn takes_users(&self) -> bool {
        true
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
            let listener = listen::tcp_listener(&self.0.listen, &cx)?;
            let roll = cx.plane.users.get(&cx.me.tag);
            let managed = roll.map(|roll| roll.users()).unwrap_or_default();
            let trojan = Trojan::new(&self, &managed, &cx);
            let inbound = Inbound::new(&self.inbound(), trojan, &cx)?;
            let control = Handle { inbound: inbound.clone(), cx, spec: self.clone(), managed };
            Ok(Component {
                inject: Some(inbound.inject()),
                control: Some(Box::new(control)),
                run: Some(Box::pin(inbound.run(listener))),
                ..Component::default()
            })
        })
    }
}

/// Takes other users.
struct Handle {
    inbound: Arc<Inbound<Trojan>>,
    cx: BuildCx,
    spec: Arc<TrojanIn>,
    managed: Arc<[User]>,
}

impl Handle {
    fn apply(&self) {
        let next = Arc::new(self.spec.users(&self.managed));
        let old = self.inbound.greeter().users.swap(next.clone());
        // Flows of nobody fell back: no user lets them in.
        cut_strangers(&self.cx, |user| user.is_none_or(|name| next.same_user(&old, name)));
    }
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<TrojanIn>() else { return };
        self.spec = Arc::new(TrojanIn(next.0.clone()));
        self.apply();
    }

    fn check_user(&self, user: &User) -> Result<(), String> {
        if self.spec.configures(&user.name) {
            return Err(format!("user {} already exists", user.name));
        }
        if user.secret.is_empty() {
            return Err("missing password".to_owned());
        }
        Ok(())
    }

    fn set_users(&mut self, users: &[User]) {
        if *self.managed != *users {
            self.managed = users.into();
            self.apply();
        }
    }
}

/// The protocol at the server.
struct Trojan {
    cx: BuildCx,
    users: ArcSwap<Users>,
    fallback: Option<Target>,
    by_alpn: HashMap<Box<[u8]>, Target>,
}

impl Greeter for Trojan {
    fn greet(
        &self,
        id: u64,
        arrived: Arrived,
    ) -> impl Future<Output = Result<Wanted, Refused>> + Send {
        self.read_request(id, arrived)
    }

    fn knows(&self, user: Option<&str>) -> bool {
        // Flows of nobody fell back: no user lets them in.
        user.is_none_or(|name| self.users.load().has(name))
    }
}

impl Trojan {
    fn new(spec: &TrojanIn, managed: &[User], cx: &BuildCx) -> Self {
        let target = |options: &ServerOptions| server(options);
        let by_alpn = spec.0.fallback_for_alpn.0.iter();
        Self {
            cx: cx.clone(),
            users: ArcSwap::from_pointee(spec.users(managed)),
            fallback: spec.0.fallback.as_ref().filter(|to| !to.server.is_empty()).map(target),
            by_alpn: by_alpn.map(|(alpn, to)| (alpn.as_bytes().into(), target(to))).collect(),
        }
    }

    async fn read_request(&self, id: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let Arrived { mut stream, alpn, .. } = arrived;
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
                Err(error) => return Err(Refused::client(error)),
            }
        };
        held.drain(..KEY + len);
        if !held.is_empty() {
            stream = Box::new(Prefixed::new(held.into(), stream));
        }
        let flow = match command {
            Command::Connect => Flow::Stream(stream),
            Command::Associate => Flow::Packet(Framed::boxed(stream, Datagrams, &[])),
            Command::Mux => {
                let drain = self.cx.cancel.clone();
                let run: Run =
                    Box::new(move |branches| Box::pin(mux::serve(stream, branches, drain)));
                return Ok(Wanted::Session { target, user: Some(user), run });
            }
        };
        Ok(Wanted::Flow { target, user: Some(user), flow })
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
        let no_fallback = || Refused::client("bad request: fallback disabled");
        let target = target.ok_or_else(no_fallback)?.clone();
        info!(conn = id, component = %self.cx.me, "fallback connection to {target}");
        if !held.is_empty() {
            stream = Box::new(Prefixed::new(held.into(), stream));
        }
        Ok(Wanted::Flow { target, user: None, flow: Flow::Stream(stream) })
    }
}
