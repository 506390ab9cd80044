//! Outbound `wireguard` of old configurations: an endpoint that nobody comes in through.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildError, DialError, Kind, Plugin,
    component::{BuildCx, Claims, Component, Deps, Dial, Outbound, Spec},
    flow::{BoxPacketIo, BoxStream},
    net::dial,
    session::Network,
};
use crosspoint_layers::spec::{check, done};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Listable, Map, NetworkList, Options as _, Prefix, Secret},
    notice, options,
    options::{DialOptions, ServerOptions},
};

use crate::{
    endpoint::WireGuard,
    options::{Bytes, WireGuardOptions, WireGuardPeer},
};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "wireguard", schema: LegacyOptions::describe, canonical: |raw| raw.canonical::<LegacyOptions>(), parse }
}

options! {
    /// A WireGuard client in its old form.
    pub struct LegacyOptions ("option.LegacyWireGuardOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// Use an interface of the system.
        pub system_interface: bool = "system_interface",
        /// Segmentation offload, which is always used where there is any.
        pub gso: bool = "gso",
        /// Name of the interface.
        pub interface_name: String = "interface_name",
        /// Our addresses inside.
        pub local_address: Listable<Prefix> = "local_address" always,
        /// Our key.
        pub private_key: Secret = "private_key" always,
        /// Several peers.
        pub peers: Vec<LegacyPeer> = "peers",
        /// The only peer.
        pub server: ServerOptions = flatten,
        /// Its key.
        pub peer_public_key: String = "peer_public_key" always,
        /// A secret that both share.
        pub pre_shared_key: Secret = "pre_shared_key",
        /// Three bytes that stand in every message.
        pub reserved: Bytes = "reserved",
        /// Workers that decrypt; one for each core if unset.
        pub workers: i64 = "workers",
        /// Largest packet inside; 1408 if unset.
        pub mtu: u32 = "mtu",
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
    }
}

options! {
    /// A peer in its old form.
    pub struct LegacyPeer ("option.LegacyWireGuardPeer") {
        /// Where it is.
        pub server: ServerOptions = flatten,
        /// Its key.
        pub public_key: String = "public_key",
        /// A secret that both share.
        pub pre_shared_key: Secret = "pre_shared_key",
        /// Addresses that are behind it.
        pub allowed_ips: Listable<Prefix> = "allowed_ips",
        /// Three bytes that stand in every message.
        pub reserved: Bytes = "reserved",
    }
}

impl LegacyOptions {
    /// The same as options of an endpoint.
    fn endpoint(&self) -> WireGuardOptions {
        let peer = |server: &ServerOptions,
                    key: &str,
                    secret: &Secret,
                    reserved: &Bytes,
                    allowed: Listable<Prefix>| {
            WireGuardPeer {
                address: server.server.clone(),
                port: server.server_port,
                public_key: key.to_owned(),
                pre_shared_key: secret.clone(),
                allowed_ips: allowed,
                reserved: reserved.clone(),
                ..WireGuardPeer::default()
            }
        };
        let all = || {
            let any = ["0.0.0.0/0", "::/0"].into_iter().flat_map(Prefix::parse);
            any.collect::<Listable<Prefix>>()
        };
        let peers = if self.peers.is_empty() {
            vec![peer(
                &self.server,
                &self.peer_public_key,
                &self.pre_shared_key,
                &self.reserved,
                all(),
            )]
        } else {
            let peers = self.peers.iter().map(|old| {
                peer(
                    &old.server,
                    &old.public_key,
                    &old.pre_shared_key,
                    &old.reserved,
                    old.allowed_ips.clone(),
                )
            });
            peers.collect()
        };
        WireGuardOptions {
            system: self.system_interface,
            name: self.interface_name.clone(),
            mtu: self.mtu,
            address: self.local_address.clone(),
            private_key: self.private_key.clone(),
            peers,
            workers: self.workers,
            dial: self.dial.clone(),
            ..WireGuardOptions::default()
        }
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: LegacyOptions = raw.parse()?;
    raw.deprecated(&notice::WIREGUARD_OUTBOUND);
    if options.gso {
        raw.deprecated(&notice::WIREGUARD_GSO);
    }
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if !options.dial.detour.is_empty() && options.gso {
        return Err(raw.invalid("gso is conflict with detour"));
    }
    let inner = WireGuard::new(options.endpoint(), false);
    let inner = Arc::new(inner.map_err(|error| raw.invalid(error.to_string()))?);
    done(Legacy { options, inner })
}

#[derive(Debug)]
struct Legacy {
    options: LegacyOptions,
    inner: Arc<WireGuard>,
}

impl Spec for Legacy {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn claims(&self, out: &mut Claims) {
        self.inner.claims(out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let mut component = self.inner.clone().build(cx).await?;
            component.control = None;
            let network = self.options.network.clone();
            component.outbound = component
                .outbound
                .map(|inner| Arc::new(Limited { inner, network }) as Arc<dyn Outbound>);
            Ok(component)
        })
    }
}

/// Carries the networks that the options name.
struct Limited {
    inner: Arc<dyn Outbound>,
    network: NetworkList,
}

impl Outbound for Limited {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        self.inner.connect(dial)
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        self.inner.associate(dial)
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.network.tcp(),
            Network::Udp => self.network.udp(),
        }
    }
}
