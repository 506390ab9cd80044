//! Inbound `trojan`.

use std::collections::HashMap;
use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Spec};
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed};
use crosspoint_kernel::net::listen;
use crosspoint_kernel::users::User;
use crosspoint_kernel::{BuildError, Kind, Plugin};
use crosspoint_layers::entrance::{Arrived, EntranceOptions};
use crosspoint_layers::inbound::{Greeter, InboundOptions, Refused, Run, Wanted};
use crosspoint_layers::offer::{Offer, Offered};
use crosspoint_layers::roster::{Roster, unchanged};
use crosspoint_layers::spec::{at_start, check, done, server, user_name};
use crosspoint_layers::unpack;
use crosspoint_schema::decode::Options as _;
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
    done(Offered::new(spec))
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
}

/// Users by key.
#[derive(Debug, Default)]
struct Users(HashMap<[u8; KEY], Arc<str>>);

impl Users {
    fn named(&self) -> impl Iterator<Item = (&str, &[u8; KEY])> {
        self.0.iter().map(|(key, name)| (&**name, key))
    }
}

impl Roster for Users {
    fn has(&self, user: Option<&str>) -> bool {
        // Flows of nobody fell back: no user lets them in.
        user.is_none_or(|name| self.0.values().any(|known| **known == *name))
    }

    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a {
        let same = unchanged(self.named(), old.named());
        move |user| user.is_none_or(|name| same.contains(name))
    }
}

impl Offer for TrojanIn {
    type Options = TrojanInOptions;
    type Greeter = Trojan;

    fn options(&self) -> &TrojanInOptions {
        &self.0
    }

    fn inbound(&self) -> InboundOptions<'_> {
        InboundOptions {
            listen: &self.0.listen,
            entrance: self.entrance(),
            multiplex: self.0.multiplex.as_ref(),
            udp_over_tcp: false,
        }
    }

    fn differs_in_users(&self, next: &Self) -> bool {
        next.without_users() == self.without_users()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.users.iter().map(|user| user.name.as_str())
    }

    fn users(&self, managed: &[User], _: Option<&Users>, _: &BuildCx) -> Result<Users, BuildError> {
        let managed = managed.iter().filter(|user| !self.configures(&user.name));
        let managed = managed.map(|user| (wire::key(user.secret.expose()), user.name.clone()));
        let users = self.0.users.iter().enumerate();
        let users =
            users.map(|(at, user)| (wire::key(user.password.expose()), user_name(at, &user.name)));
        Ok(Users(managed.chain(users).collect()))
    }

    fn check_secret(&self, user: &User) -> Result<(), String> {
        if user.secret.is_empty() { Err("missing password".to_owned()) } else { Ok(()) }
    }

    fn greeter(&self, cx: &BuildCx) -> Trojan {
        let target = |options: &ServerOptions| server(options);
        let by_alpn = self.0.fallback_for_alpn.0.iter();
        Trojan {
            cx: cx.clone(),
            fallback: self.0.fallback.as_ref().filter(|to| !to.server.is_empty()).map(target),
            by_alpn: by_alpn.map(|(alpn, to)| (alpn.as_bytes().into(), target(to))).collect(),
        }
    }
}

/// The protocol at the server.
struct Trojan {
    cx: BuildCx,
    fallback: Option<Target>,
    by_alpn: HashMap<Box<[u8]>, Target>,
}

impl Greeter for Trojan {
    type Users = Users;

    fn greet(
        &self,
        users: &Users,
        id: u64,
        arrived: Arrived,
    ) -> impl Future<Output = Result<Wanted, Refused>> + Send {
        self.read_request(users, id, arrived)
    }
}

impl Trojan {
    async fn read_request(
        &self,
        users: &Users,
        id: u64,
        arrived: Arrived,
    ) -> Result<Wanted, Refused> {
        let Arrived { mut stream, alpn, .. } = arrived;
        let mut held = Vec::with_capacity(256);
        while held.len() < KEY && wire::may_be_key(&held) {
            if stream.read_buf(&mut held).await? == 0 {
                break;
            }
        }
        let key = held.first_chunk::<KEY>().filter(|_| wire::may_be_key(&held));
        let user = key.and_then(|key| users.0.get(key).cloned());
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
