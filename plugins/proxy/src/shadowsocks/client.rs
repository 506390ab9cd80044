//! Outbound `shadowsocks`.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::net::dial;
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};

use super::method::{Family, KeyError, Method};
use super::options::ShadowsocksOutOptions;
use super::packets;
use super::sip003::Plugin as SipPlugin;
use super::stream::{ClientKeys, Shadow};
use crosspoint_layers::outer::{OuterOptions, wrap};
use crosspoint_layers::spec::{check, done};
use crosspoint_layers::uplink::{Uplink, UplinkOptions};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "shadowsocks", schema: ShadowsocksOutOptions::describe, canonical: |raw| raw.canonical::<ShadowsocksOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: ShadowsocksOutOptions = raw.parse()?;
    let keys = keys(&options).map_err(|error| raw.invalid(error.to_string()))?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    let plugin = SipPlugin::new(&options.plugin, &options.plugin_opts, &options.server);
    let plugin = plugin.map_err(|error| raw.invalid(error.to_string()))?;
    let spec = ShadowsocksOut { options, keys: Arc::new(keys), plugin };
    check(&raw, "plugin_opts", spec.uplink().check())?;
    check(&raw, "multiplex", spec.outer().check())?;
    done(spec)
}

fn keys(options: &ShadowsocksOutOptions) -> Result<ClientKeys, KeyError> {
    let method = Method::named(&options.method)?;
    let password = options.password.expose();
    if !matches!(method.family, Family::Aead2022(_)) {
        return Ok(ClientKeys { method, servers: Vec::new(), own: method.key(password, "")? });
    }
    let keys = password.split(':').map(|key| method.key(key, "decode psk"));
    let mut servers = keys.collect::<Result<Vec<_>, _>>()?;
    let own = servers.pop().ok_or(KeyError::MissingKey)?;
    if !servers.is_empty() && !own.has_users() {
        return Err(KeyError::NoIdentity);
    }
    Ok(ClientKeys { method, servers, own })
}

#[derive(Debug)]
struct ShadowsocksOut {
    options: ShadowsocksOutOptions,
    keys: Arc<ClientKeys>,
    plugin: Option<SipPlugin>,
}

impl ShadowsocksOut {
    fn uplink(&self) -> UplinkOptions<'_> {
        UplinkOptions {
            dial: &self.options.dial,
            server: &self.options.server,
            tls: self.plugin.as_ref().and_then(|plugin| plugin.tls.as_ref()),
            transport: self.plugin.as_ref().and_then(|plugin| plugin.transport.as_ref()),
        }
    }

    fn outer(&self) -> OuterOptions<'_> {
        OuterOptions {
            multiplex: self.options.multiplex.as_ref(),
            udp_over_tcp: self.options.udp_over_tcp.as_ref(),
        }
    }
}

impl Spec for ShadowsocksOut {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let client = Client { uplink: Uplink::new(&self.uplink(), &cx)?, spec: self.clone() };
            let outbound = wrap(Arc::new(client), self.outer(), &cx)?;
            Ok(Component { outbound: Some(outbound), ..Component::default() })
        })
    }
}

struct Client {
    uplink: Uplink,
    spec: Arc<ShadowsocksOut>,
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let mut inner = self.uplink.open(dial).await?;
            if let Some(plugin) = &self.spec.plugin {
                inner = plugin.wrap(inner);
            }
            let shadow = Shadow::client(inner, self.spec.keys.clone(), dial.target.clone());
            Ok(Box::new(shadow) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let inner = self.uplink.associate(dial).await?;
            let server = self.uplink.server().clone();
            let client = packets::Client::new(inner, server, self.spec.keys.clone());
            Ok(Box::new(client.map_err(DialError::protocol)?) as BoxPacketIo)
        })
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.spec.options.network.tcp(),
            Network::Udp => self.spec.options.network.udp(),
        }
    }
}
