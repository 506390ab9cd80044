//! What is known of the network on an interface, kept up to date.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crosspoint_kernel::{
    BuildCx,
    net::{dial, monitor::NetworkState},
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info};

use super::{
    DhcpOptions,
    packet::Reply,
    probe::{Interface, probe},
};
use crate::plain::Plain;

/// The network is asked again after this time, as in the reference, or when half of the lease is over.
const FRESH: Duration = Duration::from_secs(3600);

/// However short the lease.
const AT_LEAST: Duration = Duration::from_secs(60);

/// After a failure with nothing known, queries fail for this long before one of them makes us ask again.
const FAILED: Duration = Duration::from_secs(3);

/// After a failure to ask a known network again.
const AGAIN: Duration = Duration::from_secs(60);

/// How long the first look at the interfaces may take.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// What DHCP told, and the way to the servers.
pub(super) struct Lease {
    interface: Interface,
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    pub(super) plain: Plain,
}

#[derive(Clone)]
enum Known {
    /// Being asked.
    Nothing,
    Failed(Arc<str>, Instant),
    Lease(Arc<Lease>),
}

/// Watches one interface.
pub(super) struct Watch {
    options: DhcpOptions,
    cx: BuildCx,
    known: watch::Sender<Known>,
    /// Somebody needs servers.
    wanted: Notify,
}

impl Watch {
    pub(super) fn new(options: DhcpOptions, cx: BuildCx) -> Self {
        Self { options, cx, known: watch::Sender::new(Known::Nothing), wanted: Notify::new() }
    }

    /// The servers; waits for the network if it is being asked.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn lease(&self) -> Result<Arc<Lease>, String> {
        let mut updates = self.known.subscribe();
        loop {
            let known = updates.borrow_and_update().clone();
            match known {
                Known::Lease(lease) => return Ok(lease),
                Known::Failed(why, at) if at.elapsed() < FAILED => return Err(why.to_string()),
                Known::Failed(..) => self.wanted.notify_one(),
                Known::Nothing => {}
            }
            if updates.changed().await.is_err() {
                return Err("dhcp: stopped".to_owned());
            }
        }
    }

    /// Asks the network when it is time. Never ends.
    pub(super) async fn run(&self) {
        let mut changes = self.cx.plane.network.changes();
        if self.cx.plane.network.is_unknown() {
            // The monitor starts after us.
            let _ = timeout(FIRST_LOOK, changes.changed()).await;
        }
        loop {
            changes.mark_unchanged();
            let (found, next) = match self.interface() {
                Ok(found) => {
                    self.forget_other(Some(&found));
                    info!("dhcp: query DNS servers on {}", found.name);
                    let transaction = RandomState::new().hash_one(0u8) as u32;
                    let outcome = tokio::select! {
                        outcome = probe(&found, transaction) => outcome,
                        () = self.moved(&mut changes, Some(&found)) => continue,
                    };
                    let next = match outcome.and_then(|reply| self.lend(&found, reply)) {
                        Ok(refresh) => Some(refresh),
                        Err(why) => self.failed(&why),
                    };
                    (Some(found), next)
                }
                Err(why) => {
                    self.forget_other(None);
                    (None, self.failed(&format!("dhcp: prepare interface: {why}")))
                }
            };
            let again = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => self.wanted.notified().await,
                }
            };
            tokio::select! {
                () = again => {}
                () = self.moved(&mut changes, found.as_ref()) => {}
            }
        }
    }

    /// Resolves when the interface, or our address on it, is another one.
    async fn moved(&self, changes: &mut watch::Receiver<u64>, was: Option<&Interface>) {
        loop {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if self.interface().ok().as_ref() != was {
                return;
            }
        }
    }

    /// The interface to ask on.
    fn interface(&self) -> Result<Interface, String> {
        let network = self.cx.plane.network.now();
        let name: &str = match self.options.interface.as_str() {
            "" => &network.default_route().ok_or("missing default interface")?.name,
            name => name,
        };
        exists(name)?;
        Ok(Interface {
            name: name.into(),
            hardware: hardware(name),
            address: address(&network, name),
        })
    }

    /// Servers of a network that we have left are nobody's business any more.
    fn forget_other(&self, here: Option<&Interface>) {
        self.known.send_modify(|known| {
            let same = matches!(known, Known::Lease(lease) if Some(&lease.interface) == here);
            if !same {
                *known = Known::Nothing;
            }
        });
    }

    /// Puts what DHCP told in force. Returns when to ask again.
    fn lend(&self, interface: &Interface, reply: Reply) -> Result<Instant, String> {
        let servers: Vec<SocketAddr> =
            reply.servers.into_iter().map(|ip| SocketAddr::new(ip.into(), 53)).collect();
        let fresh = reply.lease.map_or(FRESH, |lease| (lease / 2).clamp(AT_LEAST, FRESH));
        let same = match &*self.known.borrow() {
            Known::Lease(lease) => lease.servers == servers && lease.search == reply.search,
            _ => false,
        };
        if !same {
            let search = reply.search.join(",");
            let name = &interface.name;
            info!("dhcp: updated DNS servers from {name}: {servers:?}, search: [{search}]");
        }
        let mut dial = self.options.dial.clone();
        let placed = !dial.detour.is_empty()
            || dial.inet4_bind_address.is_some()
            || dial.inet6_bind_address.is_some()
            || dial.network_strategy.is_some()
            || !dial.network_type.is_empty()
            || !dial.netns.is_empty();
        if dial.bind_interface.is_empty() && !placed {
            // Whatever routes there are: these servers are of this network.
            dial.bind_interface = interface.name.to_string();
        }
        let plain = Plain::new(&dial, dial::Setup::default(), &self.cx);
        let refresh = Instant::now() + fresh;
        self.known.send_replace(Known::Lease(Arc::new(Lease {
            interface: interface.clone(),
            servers,
            search: reply.search,
            plain: plain.map_err(|error| error.to_string())?,
        })));
        Ok(refresh)
    }

    /// Notes a failure. Returns when to ask again; `None`: when somebody needs it.
    fn failed(&self, why: &str) -> Option<Instant> {
        error!("fetch DNS servers: {why}");
        let mut known = false;
        self.known.send_if_modified(|now| {
            known = matches!(now, Known::Lease(_));
            if !known {
                *now = Known::Failed(why.into(), Instant::now());
            }
            !known
        });
        known.then(|| Instant::now() + AGAIN)
    }
}

fn exists(name: &str) -> Result<(), String> {
    let found = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| name_to_index(socket, name));
    found.map(|_| ()).map_err(|_| format!("no such network interface: {name}"))
}

/// The hardware address; none for interfaces without one.
fn hardware(name: &str) -> Vec<u8> {
    // The interface exists, so its name holds no slash.
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/address"));
    let text = text.unwrap_or_default();
    text.trim().split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// Our own IPv4 address on that interface.
fn address(network: &NetworkState, name: &str) -> Option<Ipv4Addr> {
    let interface = network.interfaces.iter().find(|interface| *interface.name == *name)?;
    interface.addresses.iter().find_map(|(ip, _)| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}
