//! Option `system`: an interface of the system stands where the stack of our own would.
//!
//! ```text
//! programs, sockets of `dial` ──► system ──► TUN interface ──► Device ──► peers
//! system ◄── TUN interface ◄── to our networks ◄── Device ◄── peers
//! router ◄── Handler ◄── Netstack ◄── to all others ◄──┘
//! ```
//! What peers send to networks of ours belongs to the system. The rest goes through our stack to the router, as without the
//! interface: an endpoint forwards by rules, not by the system's routes. The old outbound has no inbound side; there
//! everything belongs to the system. (The reference: `transport/wireguard/device_system_stack.go`, which gives the
//! system the rest too when a batch is mixed.)
//!
//! Nothing but the networks of `address` is led into the tunnel for the whole machine; networks of peers are reached by
//! sockets that are bound to the interface ([`Scope`]).

mod dial;

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::{BuildError, component::BuildCx};
use crosspoint_netstack::{Link as _, Netstack, Packets, ip};
use crosspoint_tundev::{Name, Reader, Scope, Settings, Tun};
use ipnet::{IpNet, Ipv6Net};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) use self::dial::Dialled;
use crate::{device::Device, running::Running};

/// Letters of an interface without a configured name, as the reference has them.
const PREFIX: &str = "wg";
/// How long an interface whose instance has failed waits for the next one.
const LINGER: Duration = Duration::from_secs(10);

/// What an interface is made of.
pub(crate) fn settings(name: &str, mtu: u32, addresses: Vec<IpNet>) -> Settings {
    let name = match name {
        "" => Name::Numbered(PREFIX),
        name => Name::Fixed(name.to_owned()),
    };
    Settings { name, mtu, addresses }
}

/// An interface at work.
pub(crate) struct System {
    tun: Arc<Tun>,
    /// `None` if the interface has no address of IPv6.
    scope: Option<Arc<Scope>>,
    own: Vec<IpNet>,
    /// Whether packets to others go to the router.
    serves: bool,
    task: Mutex<Option<JoinHandle<()>>>,
    broken: (watch::Sender<Option<String>>, watch::Receiver<Option<String>>),
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl System {
    /// Opens an interface. `allowed` are networks of peers.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn open(
        settings: &Settings,
        allowed: &[Ipv6Net],
        serves: bool,
        cx: &BuildCx,
    ) -> Result<Arc<Self>, BuildError> {
        let failed = |error| BuildError::io("open the system interface", error);
        let tun = Tun::open(settings).await.map_err(|error| failed(error.into()))?;
        let own = settings.addresses.clone();
        let v6 = own.iter().any(|net| net.addr().is_ipv6());
        let scope = v6.then(|| Scope::new(&tun, allowed, &cx.plane.vault)).transpose();
        let scope = scope.map_err(|error| BuildError::io("set routes of the tunnel", error))?;
        tracing::info!(component = %cx.me, "started at {}", tun.name());
        let (task, broken) = (Mutex::new(None), watch::channel(None));
        Ok(Arc::new(Self { tun: Arc::new(tun), scope, own, serves, task, broken }))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.tun.name()
    }

    /// Whether it has an address of that family.
    fn speaks(&self, v4: bool) -> bool {
        self.own.iter().any(|net| net.addr().is_ipv4() == v4)
    }

    /// Networks of peers are others now.
    pub(crate) fn set_allowed(&self, allowed: &[Ipv6Net]) {
        if let Some(scope) = &self.scope
            && let Err(error) = scope.set(allowed)
        {
            tracing::error!("set routes of {}: {error}", self.name());
        }
    }

    /// Carries what the system sends to the device, from now on.
    pub(crate) fn start(&self, device: Arc<Device>) {
        let reader = self.tun.reader();
        let broken = self.broken.0.clone();
        let task = tokio::spawn(async move {
            let why = carry(reader, &device).await;
            broken.send_replace(Some(why));
        });
        *self.task.lock() = Some(task);
    }

    /// Takes what peers sent.
    pub(crate) fn take(&self, packets: &Packets, stack: &Netstack) {
        let mine = |packet: &[u8]| {
            let to = ip::destination(packet);
            to.is_some_and(|to| self.own.iter().any(|net| net.contains(&to)))
        };
        if !self.serves || packets.iter().all(mine) {
            return self.tun.write(packets.iter());
        }
        self.tun.write(packets.iter().filter(|packet| mine(packet)));
        stack.input(packets.iter().filter(|packet| !mine(packet)));
    }

    /// Whether it still works.
    pub(crate) fn is_sound(&self) -> bool {
        self.broken.1.borrow().is_none()
            && self.task.lock().as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Waits until it has failed, and says what.
    pub(crate) async fn failed(&self) -> String {
        let mut broken = self.broken.1.clone();
        // The other half is ours: it does not end.
        let why = broken.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        format!("interface {}: {}", self.name(), why.unwrap_or_default())
    }

    /// Ends it. When this returns, nothing of it reads any more.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

async fn carry(mut reader: Reader, device: &Device) -> String {
    let mut packets = Packets::new();
    loop {
        if let Err(error) = reader.read(&mut packets).await {
            return error.to_string();
        }
        device.send(&packets);
        packets.clear();
        // Others get their turn now and then.
        tokio::task::consume_budget().await;
    }
}

/// Holds a device with an interface while its instance works; when that fails, and was not told to end, a while
/// longer: programs of the system talk through the interface too, and nobody else holds it for them.
pub(crate) struct Linger {
    running: Option<Arc<Running>>,
    told: CancellationToken,
}

impl Linger {
    /// Holds the device of an instance that ends when `told` is cancelled.
    pub(crate) fn new(running: &Arc<Running>, told: CancellationToken) -> Self {
        let running = running.system().is_some().then(|| running.clone());
        Self { running, told }
    }
}

impl Drop for Linger {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && !self.told.is_cancelled()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop(running);
            });
        }
    }
}
