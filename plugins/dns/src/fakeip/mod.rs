//! DNS server `fakeip`: makes an address up for every name, for connections that are routed by name later.
//!
//! Addresses are given out one after another and stand for their name until the range is used up. They live in this
//! process, and in the cache file if it keeps them (`experimental.cache_file.store_fakeip`): then a client is told of an
//! address only when it would survive a kill, so that no crash makes it stand for another name.

mod pool;
mod ring;
#[cfg(test)]
mod tests;

use std::{any::Any, net::IpAddr, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    resolve::{DnsServer, ExchangeError, FakeIp, Query},
    snapshot::Plane,
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _, Prefix},
    options,
};

use self::{
    pool::{Pool, Ranges},
    ring::Ring,
};
use crate::answer::Asked;

/// A disk that is slower than this does not hold up answers.
const STORED: Duration = Duration::from_secs(1);

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "fakeip", schema: FakeIpOptions::describe, canonical: |raw| raw.canonical::<FakeIpOptions>(), parse }
}

options! {
    /// Makes addresses up.
    pub struct FakeIpOptions ("option.FakeIPDNSServerOptions") {
        /// Range of IPv4 addresses; A queries fail without. At most 131072 addresses of it are used.
        pub inet4_range: Option<Prefix> = "inet4_range",
        /// Range of IPv6 addresses; AAAA queries fail without. At most 131072 addresses of it are used.
        pub inet6_range: Option<Prefix> = "inet6_range",
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: FakeIpOptions = raw.parse()?;
    let ranges =
        [("inet4_range", options.inet4_range, true), ("inet6_range", options.inet6_range, false)];
    for (key, range, v4) in ranges {
        let Some(range) = range else { continue };
        if range.addr.is_ipv4() != v4 {
            return Err(raw.invalid_at(key, format!("{key}: {range} is of the other family")));
        }
        Ring::new(range).map_err(|why| raw.invalid_at(key, format!("{key}: {why}")))?;
    }
    Ok(Arc::new(FakeIpSpec(options)))
}

#[derive(Debug)]
struct FakeIpSpec(FakeIpOptions);

impl Spec for FakeIpSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let ranges = Ranges { v4: self.0.inet4_range, v6: self.0.inet6_range };
            let pool = match in_force(&cx.plane, ranges) {
                Some(pool) => pool,
                None => Arc::new(Pool::new(ranges, &cx.names.state).map_err(BuildError::options)?),
            };
            let server = Server { pool, plane: cx.plane };
            Ok(Component { dns: Some(Arc::new(server)), ..Component::default() })
        })
    }
}

/// The pool of the instance that is in force, if it has the same ranges: clients were told of its addresses.
fn in_force(plane: &Plane, ranges: Ranges) -> Option<Arc<Pool>> {
    let snapshot = plane.snapshot.load();
    let mut live = snapshot.names.dns.values().filter_map(|slot| slot.now());
    live.find_map(|instance| {
        let face: &dyn Any = instance.face.fake_ip()?;
        let pool = &face.downcast_ref::<Server>()?.pool;
        (pool.ranges() == ranges).then(|| pool.clone())
    })
}

struct Server {
    pool: Arc<Pool>,
    plane: Arc<Plane>,
}

impl Server {
    async fn answer(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let asked = Asked::read(query)?;
        let Some(family) = asked.family else {
            return Err(ExchangeError::failed("only IP queries are supported by fakeip"));
        };
        let state = self.plane.state();
        let (ip, kept) =
            self.pool.address(&asked.name, family, &state).map_err(ExchangeError::failed)?;
        if !kept {
            let _ = tokio::time::timeout(STORED, state.flush()).await;
        }
        asked.addresses(&[ip])
    }
}

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.answer(query))
    }

    fn fake_ip(&self) -> Option<&dyn FakeIp> {
        Some(self)
    }
}

impl FakeIp for Server {
    fn name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        self.pool.name(ip)
    }
}
