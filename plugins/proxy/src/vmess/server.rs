//! Inbound `vmess`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use crosspoint_kernel::component::{BuildCx, Change, Claims, Component, Control, Deps, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{
    Greeter, Inbound, InboundOptions, Refused, Wanted, cut_strangers,
};
use crosspoint_layers::packets::{mux_cool, packet_addr};
use crosspoint_layers::spec::{at_start, check, done, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tracing::error;

use super::accept::{Accepted, accept};
use super::header::Command;
use super::link::now;
use super::options::VmessInOptions;
use super::packets::Packets;
use super::replay::Seen;
use super::stream::Vmess;
use super::users::{Entry, Users};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "vmess", schema: VmessInOptions::describe, canonical: |raw| raw.canonical::<VmessInOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: VmessInOptions = raw.parse()?;
    if let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) {
        tls.note_deprecated(raw.notices());
    }
    let spec = VmessIn(options);
    check(&raw, "multiplex", unpack::check(spec.0.multiplex.as_ref()))?;
    check(&raw, "tls", spec.entrance().check())?;
    at_start(&raw, "proxy_protocol", listen::validate(&spec.0.listen))?;
    done(spec)
}

#[derive(Debug)]
struct VmessIn(VmessInOptions);

impl VmessIn {
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

    fn without_users(&self) -> VmessInOptions {
        VmessInOptions { users: Vec::new(), ..self.0.clone() }
    }

    fn users(&self) -> Vec<Entry> {
        let entry = |(at, user): (usize, &super::VmessUser)| {
            Entry::new(user_name(at, &user.name), user.uuid.expose(), user.alter_id)
        };
        self.0.users.iter().enumerate().map(entry).collect()
    }
}

impl Spec for VmessIn {
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
            let configured = self.users();
            let users = all_users(&configured, &managed).map_err(BuildError::options)?;
            let greeter = Greet { users: ArcSwap::from_pointee(users), seen: Seen::default() };
            let inbound = Inbound::new(&self.inbound(), greeter, &cx)?;
            let control = Handle { inbound: inbound.clone(), cx, configured, managed };
            Ok(Component {
                inject: Some(inbound.inject()),
                control: Some(Box::new(control)),
                run: Some(Box::pin(inbound.run(listener))),
                ..Component::default()
            })
        })
    }
}

/// Configured users and managed ones.
fn all_users(configured: &[Entry], managed: &[User]) -> Result<Users, super::crypto::Forged> {
    let managed = managed.iter().filter(|user| !is_configured(configured, user));
    let managed = managed.map(|user| Entry::new(user.name.clone(), user.secret.expose(), 0));
    Users::new(configured.iter().cloned().chain(managed).collect(), now())
}

fn is_configured(configured: &[Entry], user: &User) -> bool {
    configured.iter().any(|entry| entry.name == user.name)
}

/// Takes other users.
struct Handle {
    inbound: Arc<Inbound<Greet>>,
    cx: BuildCx,
    configured: Vec<Entry>,
    managed: Arc<[User]>,
}

impl Handle {
    fn apply(&self) {
        match all_users(&self.configured, &self.managed) {
            Ok(next) => {
                let next = Arc::new(next);
                let old = self.inbound.greeter().users.swap(next.clone());
                let same = next.unchanged(&old);
                cut_strangers(&self.cx, |user| user.is_some_and(|name| same.contains(name)));
            }
            Err(error) => error!(component = %self.cx.me, "take other users: {error}"),
        }
    }
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<VmessIn>() else { return };
        self.configured = next.users();
        self.apply();
    }

    fn check_user(&self, user: &User) -> Result<(), String> {
        if is_configured(&self.configured, user) {
            return Err(format!("user {} is in the configuration", user.name));
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
struct Greet {
    users: ArcSwap<Users>,
    seen: Seen,
}

impl Greeter for Greet {
    async fn greet(&self, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let users = self.users.load_full();
        let Accepted { user, request, link } = accept(arrived.stream, &users, &self.seen).await?;
        let user = Some(user);
        match (request.command, request.target) {
            (Command::Tcp, Some(target)) => {
                Ok(Wanted::Flow { target, user, flow: Flow::Stream(Box::new(Vmess(link))) })
            }
            (Command::Udp, Some(target)) => {
                let packets = Box::new(Packets::any(link, target.clone()));
                let (target, packets) = if packet_addr::is_wanted(&target) {
                    packet_addr::accept(packets).await?
                } else {
                    (target, packets as _)
                };
                Ok(Wanted::Flow { target, user, flow: Flow::Packet(packets) })
            }
            (Command::Mux, _) => {
                let stream: BoxStream = Box::new(Vmess(link));
                Ok(Wanted::Session {
                    target: mux_cool::target(),
                    user,
                    run: Box::new(|branches| Box::pin(mux_cool::serve(stream, branches))),
                })
            }
            // Requests of the other commands have one.
            (_, None) => Err(Refused::client("no destination")),
        }
    }

    fn knows(&self, user: Option<&str>) -> bool {
        user.is_some_and(|name| self.users.load().has(name))
    }
}
