//! Outbound `trojan`.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::net::dial;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_layers::outer::{OuterOptions, wrap};
use crosspoint_layers::uplink::{Uplink, UplinkOptions};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};

use super::options::TrojanOutOptions;
use super::wire::{self, Command, Datagrams, KEY};
use crate::framed::Framed;
use crate::lead::Lead;
use crosspoint_layers::spec::{check, done};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "trojan", schema: TrojanOutOptions::describe, canonical: |raw| raw.canonical::<TrojanOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: TrojanOutOptions = raw.parse()?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if let Some(tls) = &options.tls {
        tls.note_deprecated(raw.notices());
    }
    check(&raw, "tls", uplink(&options).check())?;
    check(&raw, "multiplex", outer(&options).check())?;
    done(TrojanOut(options))
}

fn uplink(options: &TrojanOutOptions) -> UplinkOptions<'_> {
    UplinkOptions {
        dial: &options.dial,
        server: &options.server,
        tls: options.tls.as_ref(),
        transport: options.transport.as_ref(),
    }
}

fn outer(options: &TrojanOutOptions) -> OuterOptions<'_> {
    OuterOptions { multiplex: options.multiplex.as_ref(), udp_over_tcp: None }
}

#[derive(Debug)]
struct TrojanOut(TrojanOutOptions);

impl Spec for TrojanOut {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.0.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let client = Client {
                uplink: Uplink::new(&uplink(&self.0), &cx)?,
                key: wire::key(self.0.password.expose()),
                spec: self.clone(),
            };
            let outbound = wrap(Arc::new(client), outer(&self.0), &cx)?;
            Ok(Component { outbound: Some(outbound), ..Component::default() })
        })
    }
}

struct Client {
    uplink: Uplink,
    key: [u8; KEY],
    spec: Arc<TrojanOut>,
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let request = wire::emit_request(&self.key, Command::Connect, dial.target);
            let stream = self.uplink.open(dial).await?;
            Ok(Box::new(Lead::request(stream, request)) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let request = wire::emit_request(&self.key, Command::Associate, dial.target);
            let stream = self.uplink.open(dial).await?;
            Ok(Framed::boxed(stream, Datagrams, &request))
        })
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.spec.0.network.tcp(),
            Network::Udp => self.spec.0.network.udp(),
        }
    }
}
