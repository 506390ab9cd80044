//! Inbound `vless`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::component::{BuildCx, Change, Claims, Component, Control, Deps, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed, Stream as _};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::users::User as Managed;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::framed::Framed;
use crosspoint_layers::inbound::{
    Greeter, Inbound, InboundOptions, Refused, Wanted, cut_strangers,
};
use crosspoint_layers::packets::{mux_cool, packet_addr};
use crosspoint_layers::spec::{at_start, check, done, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::io::AsyncReadExt as _;

use super::options::VlessInOptions;
use super::vision::Vision;
use super::wire::{self, Command, Datagrams, MAX_REQUEST, RESPONSE, Request, WireError};
use super::{NO_SEAL, VISION};
use crate::lead::Lead;
use crate::uuid::{self, Uuid};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "vless", schema: VlessInOptions::describe, canonical: |raw| raw.canonical::<VlessInOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: VlessInOptions = raw.parse()?;
    if let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) {
        tls.note_deprecated(raw.notices());
    }
    let spec = VlessIn(options);
    check(&raw, "tls", spec.entrance().check())?;
    let options = &spec.0;
    check(&raw, "multiplex", unpack::check(options.multiplex.as_ref()))?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(spec)
}

#[derive(Debug)]
struct VlessIn(VlessInOptions);

impl VlessIn {
    fn entrance(&self) -> EntranceOptions<'_> {
        EntranceOptions { tls: self.0.tls.as_ref(), transport: self.0.transport.as_ref() }
    }

    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.0.listen,
            entrance: self.entrance(),
            multiplex: self.0.multiplex.as_ref(),
            udp_over_tcp: true,
        }
    }

    fn without_users(&self) -> VlessInOptions {
        VlessInOptions { users: Vec::new(), ..self.0.clone() }
    }

    /// Configured users and managed ones, which have the flow of the first configured one. Who is configured stays who
    /// he is.
    fn users(&self, managed: &[Managed]) -> Users {
        let flow = self.0.users.first().map(|user| user.flow.clone()).unwrap_or_default();
        let managed = managed.iter().filter(|user| !self.configures(&user.name)).map(|user| {
            let (name, flow) = (user.name.clone(), flow.clone());
            (uuid::id(user.secret.expose()), User { name, flow })
        });
        let users = self.0.users.iter().enumerate().map(|(at, user)| {
            let name = user_name(at, &user.name);
            (uuid::id(user.uuid.expose()), User { name, flow: user.flow.clone() })
        });
        Users(managed.chain(users).collect())
    }

    /// Whether a configured user has that name.
    fn configures(&self, name: &str) -> bool {
        let mut users = self.0.users.iter().enumerate();
        users.any(|(at, user)| *user_name(at, &user.name) == *name)
    }
}

/// Users by id.
#[derive(Debug, Default)]
struct Users(HashMap<Uuid, User>);

#[derive(Clone, Debug)]
struct User {
    name: Arc<str>,
    flow: String,
}

impl Users {
    fn has(&self, name: &str) -> bool {
        self.0.values().any(|known| *known.name == *name)
    }

    /// Whether the user of that name has the same ids and flows in `other`.
    fn same_user(&self, other: &Self, name: &str) -> bool {
        fn ids<'a>(users: &'a Users, name: &str) -> BTreeSet<(&'a Uuid, &'a str)> {
            let mine = users.0.iter().filter(|(_, known)| *known.name == *name);
            mine.map(|(id, user)| (id, user.flow.as_str())).collect()
        }
        ids(self, name) == ids(other, name)
    }
}

impl Spec for VlessIn {
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
            let vless = Vless { users: ArcSwap::from_pointee(self.users(&managed)) };
            let inbound = Inbound::new(&self.inbound(), vless, &cx)?;
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
    inbound: Arc<Inbound<Vless>>,
    cx: BuildCx,
    spec: Arc<VlessIn>,
    managed: Arc<[Managed]>,
}

impl Handle {
    fn apply(&self) {
        let next = Arc::new(self.spec.users(&self.managed));
        let old = self.inbound.greeter().users.swap(next.clone());
        cut_strangers(&self.cx, |user| user.is_some_and(|name| next.same_user(&old, name)));
    }
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<VlessIn>() else { return };
        self.spec = Arc::new(VlessIn(next.0.clone()));
        self.apply();
    }

    fn check_user(&self, user: &Managed) -> Result<(), String> {
        if self.spec.configures(&user.name) {
            return Err(format!("user {} already exists", user.name));
        }
        if user.secret.is_empty() {
            return Err("missing UUID".to_owned());
        }
        Ok(())
    }

    fn set_users(&mut self, users: &[Managed]) {
        if *self.managed != *users {
            self.managed = users.into();
            self.apply();
        }
    }
}

/// The protocol at the server.
struct Vless {
    users: ArcSwap<Users>,
}

impl Greeter for Vless {
    const LEAVES_TLS: bool = true;

    fn greet(
        &self,
        _id: u64,
        arrived: Arrived,
    ) -> impl Future<Output = Result<Wanted, Refused>> + Send {
        self.read_request(arrived.stream)
    }

    fn knows(&self, user: Option<&str>) -> bool {
        user.is_some_and(|name| self.users.load().has(name))
    }
}

impl Vless {
    async fn read_request(&self, mut stream: BoxStream) -> Result<Wanted, Refused> {
        let mut held = Vec::with_capacity(MAX_REQUEST);
        let (request, len) = loop {
            match wire::parse_request(&held) {
                Ok(found) => break found,
                Err(WireError::Incomplete(_)) if held.len() < MAX_REQUEST => {
                    if stream.read_buf(&mut held).await? == 0 {
                        return Err(Refused::Io(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => return Err(Refused::client(error)),
            }
        };
        let user = self.users.load().0.get(&request.id).cloned();
        let user = user.ok_or_else(|| Refused::client(unknown(&request.id)))?;
        held.drain(..len);
        admit(stream, request, user, held).await
    }
}

/// What a known user gets. `ahead` came behind the request.
async fn admit(
    mut stream: BoxStream,
    request: Request,
    user: User,
    ahead: Vec<u8>,
) -> Result<Wanted, Refused> {
    let Request { id, flow, command, target } = request;
    if flow == VISION && command == Command::Udp {
        return Err(Refused::client(format!("{VISION} flow does not support UDP")));
    }
    if flow != user.flow {
        let name = |flow: &str| if flow.is_empty() { "none".to_owned() } else { flow.to_owned() };
        let (expected, got) = (name(&user.flow), name(&flow));
        let what = format!("flow mismatch: expected {expected}, but got {got:?}");
        return Err(Refused::client(what));
    }
    if flow.is_empty() {
        if let Some(seal) = stream.seal() {
            seal.keep_source();
        }
        if !ahead.is_empty() {
            stream = Box::new(Prefixed::new(ahead.into(), stream));
        }
    } else if flow != VISION {
        return Err(Refused::client(format!("unknown flow: {flow}")));
    } else if stream.seal().is_none() {
        return Err(Refused::client(NO_SEAL));
    } else {
        stream = Box::new(Vision::server(stream, id, RESPONSE.to_vec(), ahead));
    }
    let vision = !flow.is_empty();
    let answered = |stream: BoxStream| -> BoxStream {
        if vision { stream } else { Box::new(Lead::answer(stream, RESPONSE.to_vec())) }
    };
    let user = Some(user.name);
    match (command, target) {
        (Command::Tcp, Some(target)) => {
            Ok(Wanted::Flow { target, user, flow: Flow::Stream(answered(stream)) })
        }
        (Command::Udp, Some(target)) => {
            let wanted = packet_addr::is_wanted(&target);
            // Whoever answers, the client takes it for the one that it has asked for.
            let datagrams = Datagrams::any(target.clone());
            let packets = Framed::boxed(stream, datagrams, &RESPONSE);
            let (target, packets) = match wanted {
                true => packet_addr::accept(packets).await?,
                false => (target, packets),
            };
            Ok(Wanted::Flow { target, user, flow: Flow::Packet(packets) })
        }
        (Command::Mux, _) => {
            let stream = answered(stream);
            let run = Box::new(move |branches| -> BoxFuture<'static, std::io::Result<()>> {
                Box::pin(mux_cool::serve(stream, branches))
            });
            Ok(Wanted::Session { target: mux_cool::target(), user, run })
        }
        (Command::Other(code), _) => Err(Refused::client(format!("unknown command: {code}"))),
        (_, None) => Err(Refused::client("request without a destination")),
    }
}

fn unknown(id: &Uuid) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    let parts = [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)];
    format!("unknown UUID: {}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(all: &[(Uuid, &str, &str)]) -> Users {
        let user = |(id, name, flow): &(Uuid, &str, &str)| {
            (*id, User { name: (*name).into(), flow: (*flow).to_owned() })
        };
        Users(all.iter().map(user).collect())
    }

    #[test]
    fn who_stays() {
        let old = users(&[([1; 16], "a", ""), ([2; 16], "b", ""), ([3; 16], "c", "")]);
        let new = users(&[([1; 16], "a", ""), ([9; 16], "b", ""), ([3; 16], "c", VISION)]);
        assert!(new.same_user(&old, "a"));
        assert!(!new.same_user(&old, "b") && !new.same_user(&old, "c"));
        assert!(new.has("b") && !new.has("d"));
    }

    #[test]
    fn ids_in_the_log() {
        let id = uuid::id("b831381d-6324-4d53-ad4f-8cda48b30811");
        assert_eq!(unknown(&id), "unknown UUID: b831381d-6324-4d53-ad4f-8cda48b30811");
    }
}
