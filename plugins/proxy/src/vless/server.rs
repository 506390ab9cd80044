//! Inbound `vless`.

use std::collections::HashMap;
use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed, Stream as _};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::users::User as Managed;
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::framed::Framed;
use crosspoint_layers::inbound::{Greeter, InboundOptions, Refused, Wanted};
use crosspoint_layers::offer::{Offer, Offered};
use crosspoint_layers::packets::{mux_cool, packet_addr};
use crosspoint_layers::roster::{Roster, unchanged};
use crosspoint_layers::spec::{at_start, check, done, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::Options as _;
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
    done(Offered::new(spec))
}

#[derive(Debug)]
struct VlessIn(VlessInOptions);

impl VlessIn {
    fn entrance(&self) -> EntranceOptions<'_> {
        EntranceOptions { tls: self.0.tls.as_ref(), transport: self.0.transport.as_ref() }
    }

    fn without_users(&self) -> VlessInOptions {
        VlessInOptions { users: Vec::new(), ..self.0.clone() }
    }
}

/// Users by what [`mark`] makes of their ids.
#[derive(Debug, Default)]
struct Users(HashMap<Mark, User>);

/// A hash of an id. The id is all that a user proves itself with: comparing hashes, the time of a look-up tells nothing of how
/// much of a guess was right.
type Mark = [u8; 32];

fn mark(id: &Uuid) -> Mark {
    *blake3::hash(id).as_bytes()
}

#[derive(Clone, Debug)]
struct User {
    name: Arc<str>,
    flow: String,
}

impl Users {
    fn named(&self) -> impl Iterator<Item = (&str, (&Mark, &str))> {
        self.0.iter().map(|(id, user)| (&*user.name, (id, user.flow.as_str())))
    }
}

impl Roster for Users {
    fn has(&self, user: Option<&str>) -> bool {
        user.is_some_and(|name| self.0.values().any(|known| *known.name == *name))
    }

    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a {
        let same = unchanged(self.named(), old.named());
        move |user| user.is_some_and(|name| same.contains(name))
    }
}

impl Offer for VlessIn {
    type Options = VlessInOptions;
    type Greeter = Vless;

    fn options(&self) -> &VlessInOptions {
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

    /// Managed users have the flow of the first configured one.
    fn users(
        &self,
        managed: &[Managed],
        _: Option<&Users>,
        _: &BuildCx,
    ) -> Result<Users, BuildError> {
        let flow = self.0.users.first().map(|user| user.flow.clone()).unwrap_or_default();
        let managed = managed.iter().filter(|user| !self.configures(&user.name)).map(|user| {
            let (name, flow) = (user.name.clone(), flow.clone());
            (mark(&uuid::id(user.secret.expose())), User { name, flow })
        });
        let users = self.0.users.iter().enumerate().map(|(at, user)| {
            let name = user_name(at, &user.name);
            (mark(&uuid::id(user.uuid.expose())), User { name, flow: user.flow.clone() })
        });
        Ok(Users(managed.chain(users).collect()))
    }

    fn check_secret(&self, user: &Managed) -> Result<(), String> {
        if user.secret.is_empty() { Err("missing UUID".to_owned()) } else { Ok(()) }
    }

    fn greeter(&self, _: &BuildCx) -> Vless {
        Vless
    }
}

/// The protocol at the server.
struct Vless;

impl Greeter for Vless {
    const LEAVES_TLS: bool = true;

    type Users = Users;

    fn greet(
        &self,
        users: &Users,
        _id: u64,
        arrived: Arrived,
    ) -> impl Future<Output = Result<Wanted, Refused>> + Send {
        read_request(users, arrived.stream)
    }
}

async fn read_request(users: &Users, mut stream: BoxStream) -> Result<Wanted, Refused> {
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
    let user = users.0.get(&mark(&request.id)).cloned();
    let user = user.ok_or_else(|| Refused::client(unknown(&request.id)))?;
    held.drain(..len);
    admit(stream, request, user, held).await
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
            (mark(id), User { name: (*name).into(), flow: (*flow).to_owned() })
        };
        Users(all.iter().map(user).collect())
    }

    #[test]
    fn who_stays() {
        let old = users(&[([1; 16], "a", ""), ([2; 16], "b", ""), ([3; 16], "c", "")]);
        let new = users(&[([1; 16], "a", ""), ([9; 16], "b", ""), ([3; 16], "c", VISION)]);
        let stays = new.stays(&old);
        assert!(stays(Some("a")) && !stays(Some("b")) && !stays(Some("c")) && !stays(None));
        assert!(new.has(Some("b")) && !new.has(Some("d")) && !new.has(None));
    }

    #[test]
    fn ids_in_the_log() {
        let id = uuid::id("b831381d-6324-4d53-ad4f-8cda48b30811");
        assert_eq!(unknown(&id), "unknown UUID: b831381d-6324-4d53-ad4f-8cda48b30811");
    }
}
