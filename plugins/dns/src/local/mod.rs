//! DNS server `local`: what this machine itself would ask.
//!
//! Addresses in /etc/hosts come first; everything else goes to the servers of /etc/resolv.conf as it is. Both files
//! are read again when they change. A stub such as systemd-resolved is a server like any other, and gets every
//! question: nsswitch.conf is not read, as in the reference.

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    component::Deps,
    net::dial,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _},
    options,
    options::DialOptions,
};

use crate::{
    answer::Asked,
    plain::{Plain, Plan},
    system::{
        Watched,
        hosts::{self, Names},
        resolv::{self, Resolv},
    },
};

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "local", schema: LocalOptions::describe, canonical: |raw| raw.canonical::<LocalOptions>(), parse }
}

options! {
    /// Asks what this machine asks: /etc/hosts and the servers of /etc/resolv.conf.
    pub struct LocalOptions ("option.LocalDNSServerOptions") {
        /// Dial fields.
        pub dial: DialOptions = flatten,
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: LocalOptions = raw.parse()?;
    dial::validate(&options.dial).map_err(|error| raw.invalid(error.to_string()))?;
    let old = raw.component().legacy_dns.as_deref();
    Ok(Arc::new(LocalSpec {
        options,
        old: old.is_some(),
        default_outbound: old.is_some_and(|old| old.default_dialer),
    }))
}

#[derive(Debug)]
struct LocalSpec {
    options: LocalOptions,
    /// It was written in the old form.
    old: bool,
    /// In the old form, and without a detour: the default outbound is one.
    default_outbound: bool,
}

impl Spec for LocalSpec {
    fn canonical(&self) -> Map {
        let mut map = self.options.to_map();
        // The old form and the new one look alike and dial differently: no option has this name.
        if self.old {
            map.insert("(legacy)".to_owned(), self.default_outbound.into());
        }
        map
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let setup = dial::Setup {
                any_detour: self.old,
                default_outbound: self.default_outbound,
                ..dial::Setup::default()
            };
            let local = Local {
                hosts: hosts::watch(hosts::SYSTEM),
                resolv: resolv::watch(resolv::SYSTEM),
                plain: Plain::new(&self.options.dial, setup, &cx)?,
                turn: AtomicUsize::new(0),
            };
            // The first query should not be the one that waits for the disk.
            tokio::join!(local.hosts.get(), local.resolv.get());
            Ok(Component { dns: Some(Arc::new(local)), ..Component::default() })
        })
    }
}

struct Local {
    hosts: Arc<Watched<Names>>,
    resolv: Arc<Watched<Resolv>>,
    plain: Plain,
    /// Counts queries, for option `rotate`.
    turn: AtomicUsize,
}

impl Local {
    async fn answer(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let asked = Asked::read(query)?;
        if asked.family.is_some()
            && let Some(addresses) = self.hosts.get().await.get(&asked.name)
        {
            return asked.addresses(addresses);
        }
        if asked.is_onion() {
            return asked.no_such_name();
        }
        let known = self.resolv.known();
        let conf = if known.no_reload { known } else { self.resolv.get().await };
        let first = if conf.rotate { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let plan = Plan {
            servers: &conf.servers,
            first,
            attempts: conf.attempts,
            timeout: conf.timeout,
            tcp: conf.tcp,
            trust_ad: conf.trust_ad,
        };
        self.plain.ask(query, &asked, plan).await
    }
}

impl DnsServer for Local {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.answer(query))
    }
}
