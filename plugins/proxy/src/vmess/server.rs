//! Inbound `vmess`.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{Greeter, InboundOptions, Refused, Wanted};
use crosspoint_layers::offer::{Offer, Offered};
use crosspoint_layers::packets::{mux_cool, packet_addr};
use crosspoint_layers::spec::{at_start, check, done, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::Options as _;
use crosspoint_schema::{ConfigError, RawOptions};

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
    done(Offered::new(spec))
}

#[derive(Debug)]
struct VmessIn(VmessInOptions);

impl VmessIn {
    fn entrance(&self) -> EntranceOptions<'_> {
        EntranceOptions { tls: self.0.tls.as_ref(), transport: self.0.transport.as_ref() }
    }

    fn without_users(&self) -> VmessInOptions {
        VmessInOptions { users: Vec::new(), ..self.0.clone() }
    }
}

impl Offer for VmessIn {
    type Options = VmessInOptions;
    type Greeter = Greet;

    fn options(&self) -> &VmessInOptions {
        &self.0
    }

    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.0.listen,
            entrance: self.entrance(),
            multiplex: self.0.multiplex.as_ref(),
            udp_over_tcp: true,
        }
    }

    fn differs_in_users(&self, next: &Self) -> bool {
        next.without_users() == self.without_users()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.users.iter().map(|user| user.name.as_str())
    }

    fn users(&self, managed: &[User], _: Option<&Users>, _: &BuildCx) -> Result<Users, BuildError> {
        let configured = self.0.users.iter().enumerate().map(|(at, user)| {
            Entry::new(user_name(at, &user.name), user.uuid.expose(), user.alter_id)
        });
        let managed = managed.iter().filter(|user| !self.configures(&user.name));
        let managed = managed.map(|user| Entry::new(user.name.clone(), user.secret.expose(), 0));
        Users::new(configured.chain(managed).collect(), now()).map_err(BuildError::options)
    }

    fn check_secret(&self, user: &User) -> Result<(), String> {
        if user.secret.is_empty() { Err("missing UUID".to_owned()) } else { Ok(()) }
    }

    fn greeter(&self, _: &BuildCx) -> Greet {
        Greet { seen: Seen::default() }
    }
}

/// The protocol at the server.
struct Greet {
    seen: Seen,
}

impl Greeter for Greet {
    type Users = Users;

    async fn greet(&self, users: &Users, _: u64, arrived: Arrived) -> Result<Wanted, Refused> {
        let Accepted { user, request, link } = accept(arrived.stream, users, &self.seen).await?;
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
}
