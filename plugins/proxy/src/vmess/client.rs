//! Outbound `vmess`.

use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::net::dial;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_layers::outer::{OuterOptions, wrap};
use crosspoint_layers::packets::{packet_addr, xudp};
use crosspoint_layers::spec::{check, done};
use crosspoint_layers::uplink::{Uplink, UplinkOptions};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};

use super::body::{Options, Security};
use super::header::{Command, Request};
use super::keys::ClientKey;
use super::link::{Asker, Link};
use super::options::VmessOutOptions;
use super::packets::Packets;
use super::stream::Vmess;
use crate::uuid;

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "vmess", schema: VmessOutOptions::describe, canonical: |raw| raw.canonical::<VmessOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: VmessOutOptions = raw.parse()?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if let Some(tls) = &options.tls {
        tls.note_deprecated(raw.notices());
    }
    check(&raw, "tls", uplink(&options).check())?;
    check(&raw, "multiplex", outer(&options).check())?;
    let encoding = match options.packet_encoding.as_str() {
        "" => Encoding::Plain,
        "packetaddr" => Encoding::PacketAddr,
        "xudp" => Encoding::Xudp,
        other => {
            let message = format!("unknown packet encoding: {other}");
            return Err(raw.invalid_at("packet_encoding", message));
        }
    };
    let Some(security) = security(&options) else {
        let message = format!("vmess: unsupported security type: {}", options.security);
        return Err(raw.invalid_at("security", message));
    };
    done(VmessOut { options, encoding, security })
}

/// What protects bodies; `none` and `zero` are the same, as in the reference.
fn security(options: &VmessOutOptions) -> Option<Security> {
    let tls = options.tls.as_ref().is_some_and(|tls| tls.enabled);
    match options.security.as_str() {
        "" | "auto" if tls => Some(Security::None),
        // What is fast where AES has instructions of its own.
        "" | "auto" if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) => {
            Some(Security::Aes128Gcm)
        }
        "" | "auto" | "chacha20-poly1305" => Some(Security::ChaCha20Poly1305),
        "none" | "zero" => Some(Security::None),
        "aes-128-cfb" => Some(Security::Legacy),
        "aes-128-gcm" => Some(Security::Aes128Gcm),
        _ => None,
    }
}

fn uplink(options: &VmessOutOptions) -> UplinkOptions<'_> {
    UplinkOptions {
        dial: &options.dial,
        server: &options.server,
        tls: options.tls.as_ref(),
        transport: options.transport.as_ref(),
    }
}

fn outer(options: &VmessOutOptions) -> OuterOptions<'_> {
    OuterOptions { multiplex: options.multiplex.as_ref(), udp_over_tcp: None }
}

/// How datagrams are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// As they are: to one peer.
    Plain,
    PacketAddr,
    Xudp,
}

#[derive(Debug)]
struct VmessOut {
    options: VmessOutOptions,
    encoding: Encoding,
    security: Security,
}

impl Spec for VmessOut {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let id = uuid::id(self.options.uuid.expose());
            let asker = Asker {
                key: ClientKey::new(&id).map_err(BuildError::options)?,
                legacy: (self.options.alter_id > 0).then_some(id),
            };
            let client = Client {
                uplink: Uplink::new(&uplink(&self.options), &cx)?,
                asker: Arc::new(asker),
                spec: self.clone(),
            };
            let outbound = wrap(Arc::new(client), outer(&self.options), &cx)?;
            Ok(Component { outbound: Some(outbound), ..Component::default() })
        })
    }
}

struct Client {
    uplink: Uplink,
    asker: Arc<Asker>,
    spec: Arc<VmessOut>,
}

impl Client {
    fn body(&self, command: Command) -> Options {
        let options = &self.spec.options;
        match self.spec.security {
            Security::None => Options::default().with(Options::CHUNKS, command == Command::Udp),
            Security::Legacy => Options::CHUNKS,
            Security::Aes128Gcm | Security::ChaCha20Poly1305 => Options::CHUNKS
                .with(Options::MASKED, true)
                .with(Options::PADDED, options.global_padding)
                .with(Options::SEALED_LENGTHS, options.authenticated_length),
        }
    }

    /// A connection to the server, with a request that has not gone yet.
    async fn open(
        &self,
        dial: Dial<'_>,
        command: Command,
        target: Option<Target>,
    ) -> Result<Link, DialError> {
        let stream = self.uplink.open(dial).await?;
        let request = Request::new(self.body(command), self.spec.security, command, target);
        Link::client(stream, self.asker.clone(), request).map_err(DialError::protocol)
    }
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let link = self.open(dial, Command::Tcp, Some(dial.target.clone())).await?;
            Ok(Box::new(Vmess(link)) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let target = dial.target.clone();
            Ok(match self.spec.encoding {
                Encoding::Plain => {
                    let link = self.open(dial, Command::Udp, Some(target.clone())).await?;
                    Box::new(Packets::client(link, target))
                }
                Encoding::PacketAddr => {
                    if target.host.name().is_some() {
                        return Err(DialError::unsupported(
                            "packetaddr: domain destination is not supported",
                        ));
                    }
                    let many = packet_addr::target();
                    let link = self.open(dial, Command::Udp, Some(many.clone())).await?;
                    packet_addr::wrap(Box::new(Packets::any(link, many)))
                }
                Encoding::Xudp => {
                    let link = self.open(dial, Command::Mux, None).await?;
                    xudp::client(Box::new(Vmess(link)), target)
                }
            })
        })
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.spec.options.network.tcp(),
            Network::Udp => self.spec.options.network.udp(),
        }
    }
}
