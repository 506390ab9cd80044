//! DNS server `local`: asks the system (getaddrinfo), which follows nsswitch.conf, resolv.conf and hosts.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    resolve::{DnsServer, ExchangeError, Family, Query, ResolveError},
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _},
    options,
    options::DialOptions,
};
use dns_lookup::{AddrFamily, AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use tokio::sync::Semaphore;

use crate::answer;

/// Lookups that may block a thread each at the same time.
const CONCURRENT: usize = 64;

/// Longest time that a lookup may take; the system's own limits are usually shorter.
const TIMEOUT: Duration = Duration::from_secs(10);

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "local", schema: LocalOptions::describe, canonical: |raw| raw.canonical::<LocalOptions>(), parse }
}

options! {
    /// Asks the system's resolver.
    pub struct LocalOptions ("option.LocalDNSServerOptions") {
        /// Dial fields.
        pub dial: DialOptions = flatten,
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: LocalOptions = raw.parse()?;
    // The system dials by itself: a dial field would be ignored.
    if options.dial != DialOptions::default() {
        return Err(raw.invalid("a local DNS server with dial fields is not in this build"));
    }
    Ok(Arc::new(LocalSpec(options)))
}

#[derive(Debug)]
struct LocalSpec(LocalOptions);

impl Spec for LocalSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn build(self: Arc<Self>, _: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        let server = Local { slots: Arc::new(Semaphore::new(CONCURRENT)) };
        Box::pin(async { Ok(Component { dns: Some(Arc::new(server)), ..Component::default() }) })
    }
}

struct Local {
    slots: Arc<Semaphore>,
}

impl Local {
    async fn ask(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        let failed =
            |message: String| ResolveError::Failed { name: name.into(), message: message.into() };
        // The permit moves into the thread: a lookup that nobody waits for any more still counts.
        let permit = self.slots.clone().acquire_owned().await.map_err(|e| failed(e.to_string()))?;
        let host = name.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let hints = AddrInfoHints {
                address: match family {
                    Family::V4 => AddrFamily::Inet.into(),
                    Family::V6 => AddrFamily::Inet6.into(),
                },
                socktype: SockType::Stream.into(),
                ..AddrInfoHints::default()
            };
            let mut found = Vec::new();
            match getaddrinfo(Some(&host), None, Some(hints)) {
                Ok(rows) => {
                    for row in rows.flatten() {
                        let ip = row.sockaddr.ip();
                        if !found.contains(&ip) {
                            found.push(ip);
                        }
                    }
                    Ok(found)
                }
                Err(error) => match error.kind() {
                    // The name exists, perhaps, but not in this family: that is an answer.
                    LookupErrorKind::NoName | LookupErrorKind::NoData => Ok(found),
                    _ => Err(std::io::Error::from(error).to_string()),
                },
            }
        });
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(result)) => result.map_err(failed),
            Ok(Err(panic)) => Err(failed(panic.to_string())),
            Err(_) => Err(failed(format!("the system did not answer within {TIMEOUT:?}"))),
        }
    }
}

impl DnsServer for Local {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(answer::addresses(query, async |name, family| self.ask(name, family).await))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let local = Local { slots: Arc::new(Semaphore::new(1)) };
        let found = local.ask("localhost", Family::V4).await.expect("an answer");
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
        let found = local.ask("no-such-name.invalid", Family::V4).await;
        assert!(found.is_err() || found.is_ok_and(|found| found.is_empty()));
    }
}
