//! Watches the network interfaces and default routes of this machine, and publishes what it sees to
//! [`crosspoint_kernel::net::monitor`].
//!
//! [`MonitorSpec`] is a supervised component. It asks the system over netlink (`rtnetlink(7)`; messages are parsed
//! in [`wire`], which is sans-IO), listens for changes, and looks anew when a change has settled. When the way to
//! the internet has changed, DNS servers are told to let go of their connections; whoever else wants to know waits
//! for [`Network::reroutes`](crosspoint_kernel::net::monitor::Network::reroutes).
//!
//! [`Setup`] is for interfaces of our own (TUN): their size, addresses, routes, and policy rules.

mod look;
mod setup;
mod socket;
pub mod wire;

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Spec,
    component::Fault,
    net::monitor::{DefaultRoute, NetworkState},
    snapshot::Plane,
    supervise::{ComponentId, Planned},
};
use tokio::time::Instant;
use tracing::{debug, error, info};

pub use self::setup::{ORIGIN, Route, Rule, Setup};
use self::socket::Events;

/// Type and tag of the component.
const NAME: &str = "network";

/// Changes come in bursts: one look when nothing has come for so long,
const SETTLE: Duration = Duration::from_millis(10);
/// or after so long in any case.
const AT_LATEST: Duration = Duration::from_millis(100);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The watching component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorSpec {
    /// Sockets are bound by what it sees (`auto_detect_interface`): if it cannot look, it must not start.
    pub needed: bool,
}

impl MonitorSpec {
    /// The component, to be planned with every configuration.
    pub fn planned(self) -> Planned {
        Planned {
            id: ComponentId::new(Kind::Service, NAME),
            type_name: NAME,
            spec: Arc::new(self),
            path: String::new(),
        }
    }
}

impl Spec for MonitorSpec {
    fn canonical(&self) -> serde_json::Map<String, serde_json::Value> {
        [("needed".to_owned(), self.needed.into())].into_iter().collect()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            // Listen first, or a change between the look and the listening would be missed.
            let begun = async {
                let events = Events::open()?;
                Ok((events, look::look().await?))
            };
            let (events, state) = match begun.await {
                Ok(begun) => begun,
                Err(error) if self.needed => {
                    return Err(BuildError::io("create network monitor", error));
                }
                Err(error) => {
                    debug!("network: no monitor, and none is needed: {error}");
                    return Ok(Component::default());
                }
            };
            publish(&cx.plane, state, self.needed);
            let run = async move {
                let beat = async {
                    loop {
                        cx.pulse.beat().await;
                    }
                };
                tokio::select! {
                    () = cx.cancel.cancelled() => Ok(()),
                    end = watch(events, &cx.plane) => end,
                    () = beat => Ok(()),
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

async fn watch(mut events: Events, plane: &Plane) -> Result<(), Fault> {
    let fault = |what: &str, error: std::io::Error| Fault(format!("{what}: {error}"));
    loop {
        events.changed().await.map_err(|error| fault("listen for changes", error))?;
        let latest = Instant::now() + AT_LATEST;
        loop {
            let until = latest.min(Instant::now() + SETTLE);
            match tokio::time::timeout_at(until, events.changed()).await {
                Err(_) => break,
                Ok(more) => more.map_err(|error| fault("listen for changes", error))?,
            }
            if Instant::now() >= latest {
                break;
            }
        }
        let state = look::look().await.map_err(|error| fault("look at the network", error))?;
        publish(plane, state, true);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Puts a picture in force and tells who must know. That there is no default route from the beginning is said if it
/// is `needed` only, that it has gone always.
fn publish(plane: &Plane, state: NetworkState, needed: bool) {
    let before = plane.network.now().default_route().cloned();
    let first = plane.network.is_unknown();
    let rerouted = plane.network.publish(state);
    let now = plane.network.now();
    match now.default_route() {
        Some(DefaultRoute { index, name }) if before.as_ref() != now.default_route() => {
            info!("network: updated default interface {name}, index {index}");
        }
        None if before.is_some() || first && needed => error!("network: missing default interface"),
        _ => {}
    }
    if rerouted && !first {
        // Names may mean something else in another network.
        plane.resolver().flush();
        for slot in plane.snapshot.load().names.dns.values() {
            if let Some(server) = slot.now() {
                server.face.reset();
            }
        }
    }
}

#[cfg(test)]
mod tests;
