//! Inbound `dns`: answers DNS queries over UDP and TCP. The reference has none; there one puts a `direct` inbound in
//! front of the rule action `hijack-dns`.
//!
//! Queries go to the resolver with the inbound and the client, so that DNS rules may match on both; route rules do not
//! see them. Datagrams are received and answered in batches on one socket, without an association for each client,
//! and a query whose answer is cached costs neither an allocation nor a task. That is why this is not built on
//! `hickory-server`: it makes a message and a task of each query, sends answers one by one, and owns its sockets, which
//! here belong to the vault and outlive reloads.

mod packets;
mod streams;

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec, component::Claims, net::listen,
    serve, session::Network,
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, NetworkList, Options as _},
    options,
    options::{InboundLegacyOptions, ListenOptions},
};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "dns", schema: DnsInOptions::describe, canonical: |raw| raw.canonical::<DnsInOptions>(), parse }
}

options! {
    /// Answers DNS queries over UDP and TCP.
    pub struct DnsInOptions ("crosspoint.DnsInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Networks to listen on; both if unset.
        pub network: NetworkList = "network",
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: DnsInOptions = raw.parse()?;
    if let Some(key) = senseless(&options.listen) {
        return Err(raw.invalid_at(key, format!("{key} means nothing for a dns inbound")));
    }
    listen::validate(&options.listen)
        .map_err(|error| raw.invalid_at("proxy_protocol", error.to_string()))?;
    Ok(Arc::new(DnsIn(options)))
}

/// The first listen field that can do nothing here: nothing is routed, and clients have no associations.
fn senseless(options: &ListenOptions) -> Option<&'static str> {
    let InboundLegacyOptions {
        sniff,
        sniff_override_destination,
        sniff_timeout,
        domain_strategy,
        udp_disable_domain_unmapping,
        detour,
    } = &options.legacy;
    let default = InboundLegacyOptions::default();
    [
        ("sniff", *sniff),
        ("sniff_override_destination", *sniff_override_destination),
        ("sniff_timeout", *sniff_timeout != default.sniff_timeout),
        ("domain_strategy", *domain_strategy != default.domain_strategy),
        ("udp_disable_domain_unmapping", *udp_disable_domain_unmapping),
        ("detour", !detour.is_empty()),
        ("udp_timeout", options.udp_timeout != ListenOptions::default().udp_timeout),
    ]
    .into_iter()
    .find_map(|(key, set)| set.then_some(key))
}

#[derive(Debug)]
struct DnsIn(DnsInOptions);

impl DnsIn {
    fn networks(&self) -> Vec<Network> {
        let network = &self.0.network;
        [(Network::Tcp, network.tcp()), (Network::Udp, network.udp())]
            .into_iter()
            .filter_map(|(network, has)| has.then_some(network))
            .collect()
    }
}

impl Spec for DnsIn {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.0.listen, &self.networks(), out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let (options, networks) = (&self.0.listen, self.networks());
            let tcp = networks
                .contains(&Network::Tcp)
                .then(|| listen::tcp_listener(options, &cx))
                .transpose()?;
            let udp = networks
                .contains(&Network::Udp)
                .then(|| listen::udp_socket(options, &cx, true))
                .transpose()?;
            let run = async move {
                let streams = async {
                    match tcp {
                        Some(tcp) => {
                            let of = cx.clone();
                            let handler = move |accepted| streams::accepted(of.clone(), accepted);
                            serve::tcp(tcp, cx.clone(), handler).await
                        }
                        None => std::future::pending().await,
                    }
                };
                let packets = async {
                    match udp {
                        Some(udp) => packets::serve(udp, &cx).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::pin!(streams, packets);
                tokio::select! {
                    end = &mut streams => {
                        end?;
                        // Told to stop: what was asked is answered still.
                        if networks.contains(&Network::Udp) { packets.await } else { Ok(()) }
                    }
                    end = &mut packets => {
                        end?;
                        if networks.contains(&Network::Tcp) { streams.await } else { Ok(()) }
                    }
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_mean_nothing_are_named() {
        assert_eq!(senseless(&ListenOptions::default()), None);
        let mut options = ListenOptions::default();
        options.legacy.detour = "x".to_owned();
        assert_eq!(senseless(&options), Some("detour"));
        options.legacy.sniff = true;
        assert_eq!(senseless(&options), Some("sniff"));
    }
}
