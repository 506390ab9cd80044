//! DNS server `dhcp`: asks the DNS servers that DHCP names on an interface.
//!
//! The network is asked at start, every hour (or sooner, if the lease is shorter), and when the interface or its
//! address changes; nothing is leased. While a known network is asked again, its servers go on answering; servers of a
//! network that we have left are not asked any more. Short names are completed with the domains that DHCP names.

pub mod packet;
mod probe;
mod search;
mod watch;

use std::{sync::Arc, time::Duration};

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

use self::watch::{Lease, Watch};
use crate::{answer::Asked, plain};

/// How long one server may take for one try, and how often each one is tried.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 2;

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "dhcp", schema: DhcpOptions::describe, canonical: |raw| raw.canonical::<DhcpOptions>(), parse }
}

options! {
    /// Asks the DNS servers that DHCP names.
    pub struct DhcpOptions ("option.DHCPDNSServerOptions") {
        /// Dial fields, for the DNS servers.
        pub dial: DialOptions = flatten,
        /// The interface; that of the default route where none is given.
        pub interface: String = "interface",
    }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: DhcpOptions = raw.parse()?;
    dial::validate(&options.dial).map_err(|error| raw.invalid(error.to_string()))?;
    Ok(Arc::new(DhcpSpec(options)))
}

#[derive(Debug)]
struct DhcpSpec(DhcpOptions);

impl Spec for DhcpSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.0.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            // What is wrong with the options is found now, not when there is a lease.
            plain::Plain::new(&self.0.dial, dial::Setup::default(), &cx)?;
            let cancel = cx.cancel.clone();
            let watch = Arc::new(Watch::new(self.0.clone(), cx));
            let server = Server(watch.clone());
            let run = async move {
                // Ends only with the component.
                let _ = cancel.run_until_cancelled(watch.run()).await;
                Ok(())
            };
            Ok(Component {
                dns: Some(Arc::new(server)),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

struct Server(Arc<Watch>);

impl Server {
    async fn answer(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let asked = Asked::read(query)?;
        if asked.is_onion() {
            return asked.no_such_name();
        }
        let lease = self.0.lease().await.map_err(ExchangeError::failed)?;
        for full in search::candidates(&asked.name, &lease.search) {
            let Some(long) = search::rename(&asked, &full) else { continue };
            let message = Query { message: &long.bytes, ..query };
            // A server that does not know the long name, or does not answer, may know the short one.
            if let Ok(answer) = ask(&lease, message, &long.asked).await
                && let Some(answer) = search::rename_back(&asked, &long.asked, &answer)
            {
                return Ok(answer);
            }
        }
        ask(&lease, query, &asked).await
    }
}

async fn ask(lease: &Lease, query: Query<'_>, asked: &Asked) -> Result<Vec<u8>, ExchangeError> {
    let plan = plain::Plan {
        servers: &lease.servers,
        first: 0,
        attempts: ATTEMPTS,
        timeout: TIMEOUT,
        tcp: false,
        trust_ad: false,
    };
    lease.plain.ask(query, asked, plan).await
}

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.answer(query))
    }
}
