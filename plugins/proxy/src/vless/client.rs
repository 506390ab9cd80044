//! Outbound `vless`.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream, Stream as _};
use crosspoint_kernel::net::dial;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_layers::framed::Framed;
use crosspoint_layers::outer::{OuterOptions, wrap};
use crosspoint_layers::packets::{packet_addr, xudp};
use crosspoint_layers::spec::{check, done};
use crosspoint_layers::uplink::{Uplink, UplinkOptions};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};

use super::options::VlessOutOptions;
use super::reply::Reply;
use super::vision::Vision;
use super::wire::{self, Command, Datagrams};
use super::{NO_SEAL, VISION};
use crate::lead::Lead;
use crate::uuid::{self, Uuid};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "vless", schema: VlessOutOptions::describe, canonical: |raw| raw.canonical::<VlessOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: VlessOutOptions = raw.parse()?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if let Some(tls) = &options.tls {
        tls.note_deprecated(raw.notices());
    }
    check(&raw, "tls", uplink(&options).check())?;
    let encoding = match options.packet_encoding.as_deref() {
        None | Some("xudp") => Encoding::Xudp,
        Some("packetaddr") => Encoding::PacketAddr,
        Some("") => Encoding::None,
        Some(other) => {
            let what = format!("unknown packet encoding: {other}");
            return Err(raw.invalid_at("packet_encoding", what));
        }
    };
    let vision = match options.flow.as_str() {
        "" => false,
        VISION => true,
        other => return Err(raw.invalid_at("flow", format!("unsupported flow: {other}"))),
    };
    check(&raw, "multiplex", outer(&options).check())?;
    done(VlessOut { options, encoding, vision })
}

fn uplink(options: &VlessOutOptions) -> UplinkOptions<'_> {
    UplinkOptions {
        dial: &options.dial,
        server: &options.server,
        tls: options.tls.as_ref(),
        transport: options.transport.as_ref(),
    }
}

fn outer(options: &VlessOutOptions) -> OuterOptions<'_> {
    OuterOptions { multiplex: options.multiplex.as_ref(), udp_over_tcp: None }
}

/// How datagrams name their peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Not at all: there is one.
    None,
    PacketAddr,
    Xudp,
}

#[derive(Debug)]
struct VlessOut {
    options: VlessOutOptions,
    encoding: Encoding,
    vision: bool,
}

impl Spec for VlessOut {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let way = uplink(&self.options);
            let uplink = match self.vision {
                true => Uplink::leavable(&way, &cx)?,
                false => Uplink::new(&way, &cx)?,
            };
            let id = uuid::id(self.options.uuid.expose());
            let client = Client { uplink, id, spec: self.clone() };
            let outbound = wrap(Arc::new(client), outer(&self.options), &cx)?;
            Ok(Component { outbound: Some(outbound), ..Component::default() })
        })
    }
}

struct Client {
    uplink: Uplink,
    id: Uuid,
    spec: Arc<VlessOut>,
}

impl Client {
    /// A stream with a request in front and without the response.
    async fn open(
        &self,
        dial: Dial<'_>,
        command: Command,
        vision: bool,
    ) -> Result<BoxStream, DialError> {
        let mut request = Vec::with_capacity(wire::MAX_REQUEST);
        let flow = if vision { VISION } else { "" };
        wire::emit_request(&self.id, flow, command, dial.target, &mut request);
        let mut stream = self.uplink.open(dial).await?;
        if !vision {
            if let Some(seal) = stream.seal() {
                seal.keep_source();
            }
            return Ok(Box::new(Reply::new(Box::new(Lead::request(stream, request)))));
        }
        if stream.seal().is_none() {
            return Err(DialError::unsupported(NO_SEAL));
        }
        let stream = Box::new(Reply::new(stream));
        Ok(Box::new(Vision::client(stream, self.id, request)))
    }
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.open(dial, Command::Tcp, self.spec.vision))
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let target = dial.target.clone();
            match self.spec.encoding {
                Encoding::Xudp => {
                    let stream = self.open(dial, Command::Mux, self.spec.vision).await?;
                    Ok(xudp::client(stream, target))
                }
                // The reference leaves the flow out of requests for datagrams.
                Encoding::None => {
                    let stream = self.open(dial, Command::Udp, false).await?;
                    Ok(Framed::boxed(stream, Datagrams::new(target), &[]))
                }
                Encoding::PacketAddr if target.host.name().is_some() => {
                    Err(DialError::unsupported("packetaddr: domain destination is not supported"))
                }
                Encoding::PacketAddr => {
                    let all = packet_addr::target();
                    let stream = self.open(dial.to(&all), Command::Udp, false).await?;
                    Ok(packet_addr::wrap(Framed::boxed(stream, Datagrams::any(all), &[])))
                }
            }
        })
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.spec.options.network.tcp(),
            Network::Udp => self.spec.options.network.udp(),
        }
    }
}
