//! Endpoint `wireguard`.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, BuildError, Kind, Plugin,
    component::{BuildCx, Change, Claim, Claims, Component, Control, Deps, Fault, Outbound, Spec},
    net::dial::{self, Dialer, Setup},
};
use crosspoint_layers::spec::{check, done};
use crosspoint_netstack::{Dialled, Inbound};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _},
};
use ipnet::{IpNet, Ipv6Net};
use tokio::{sync::Notify, time::Instant};

use crate::{
    device::Device,
    keys::{self, Key},
    names::{LOOK, Names},
    options::WireGuardOptions,
    peers::Config,
    running::{Plan, Running},
    system::{self, Linger, System},
};

inventory::submit! {
    Plugin { kind: Kind::Endpoint, type_name: "wireguard", schema: WireGuardOptions::describe, canonical: |raw| raw.canonical::<WireGuardOptions>(), parse }
}

/// Largest packet inside where nothing else is said, as the reference has it.
const MTU: u32 = 1408;
/// Idle time of associations where nothing else is said (constant/timeout.go: UDPTimeout).
const UDP_TIMEOUT: Duration = Duration::from_secs(300);
/// More workers than any machine has cores are a mistake.
const MOST_WORKERS: usize = 1024;
/// How long the tasks of a device that nobody holds any more may take to end.
const ENDING: Duration = Duration::from_secs(2);

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: WireGuardOptions = raw.parse()?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if !options.dial.detour.is_empty() && options.listen_port != 0 {
        return Err(raw.invalid("`listen_port` is conflict with `detour`"));
    }
    let spec = WireGuard::new(options, true).map_err(|error| raw.invalid(error.to_string()))?;
    done(spec)
}

/// A checked configuration.
pub(crate) struct WireGuard {
    options: WireGuardOptions,
    key: Key,
    peers: Vec<Config>,
    serves: bool,
}

impl std::fmt::Debug for WireGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("WireGuard").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl WireGuard {
    /// Checks options. `serves`: clients behind the tunnel may come in.
    ///
    /// # Errors
    /// What is wrong, in the reference's words where it has some.
    pub(crate) fn new(options: WireGuardOptions, serves: bool) -> Result<Self, BuildError> {
        let wrong = |text: &str| BuildError::options(text.to_owned());
        if options.private_key.expose().is_empty() {
            return Err(wrong("missing private key"));
        }
        let key = keys::parse("private key", options.private_key.expose())?;
        let mut peers: Vec<Config> = Vec::with_capacity(options.peers.len());
        for (at, peer) in options.peers.iter().enumerate() {
            let config = Config::new(at, peer)?;
            match peers.iter_mut().find(|other| other.key == config.key) {
                Some(same) => same.also(config),
                None => peers.push(config),
            }
        }
        if options.mtu != 0 && !(576..=65_535).contains(&options.mtu) {
            return Err(wrong("mtu must be between 576 and 65535"));
        }
        if options.system && !options.name.is_empty() {
            crosspoint_tundev::check_name(&options.name).map_err(wrong)?;
        }
        Ok(Self { options, key, peers, serves })
    }

    fn plan(&self) -> Plan {
        let addresses: Vec<IpAddr> = self.options.address.iter().map(|net| net.addr).collect();
        let mtu = if self.options.mtu == 0 { MTU } else { self.options.mtu };
        Plan {
            key: self.key,
            listen_port: self.options.listen_port,
            addresses,
            mtu: usize::try_from(mtu).unwrap_or(usize::MAX),
            workers: self.workers(),
            dial: self.options.dial.clone(),
            system: self
                .options
                .system
                .then(|| system::settings(&self.options.name, mtu, self.own())),
        }
    }

    /// Networks of IPv6 that are behind peers.
    fn behind6(&self) -> Vec<Ipv6Net> {
        let all = self.options.peers.iter().flat_map(|peer| peer.allowed_ips.iter());
        let v6 = all.filter_map(|prefix| match prefix.net() {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => None,
        });
        v6.collect()
    }

    fn without_peers(&self) -> WireGuardOptions {
        WireGuardOptions { peers: Vec::new(), ..self.options.clone() }
    }

    fn own(&self) -> Vec<IpNet> {
        self.options.address.iter().map(crosspoint_schema::decode::Prefix::net).collect()
    }

    fn workers(&self) -> usize {
        match usize::try_from(self.options.workers) {
            Ok(count) if count > 0 => count.min(MOST_WORKERS),
            _ => 1,
        }
    }

    fn udp_timeout(&self) -> Duration {
        match self.options.udp_timeout.0 {
            0 => UDP_TIMEOUT,
            _ => self.options.udp_timeout.get(),
        }
    }

    /// The device: the one of an instance before this one, if it is the same and sound, with the peers that are
    /// configured now; or a new one.
    async fn device(&self, cx: &BuildCx) -> Result<Arc<Running>, BuildError> {
        let shelf = format!("{} wireguard {}", cx.me.kind.name(), cx.me.tag);
        let shelf_of_device = format!("{shelf}, device");
        let plan = self.plan();
        if let Some(left) = cx.plane.vault.left::<Running>(&shelf) {
            if left.is_sound() && left.plan == plan {
                self.put_peers(&left);
                return Ok(left);
            }
            // Two devices cannot share a port or an interface; without those, the old one may live as long as its flows.
            let port = plan.listen_port != 0 && left.plan.listen_port == plan.listen_port;
            let name = left.system().is_some_and(|system| system.name() == self.options.name);
            if port || name {
                left.stop().await;
            }
        } else {
            // One that nobody holds any more: its tasks are just ending, and with them go its port and interface.
            let until = Instant::now() + ENDING;
            while cx.plane.vault.left::<Device>(&shelf_of_device).is_some()
                && Instant::now() < until
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let dialer = || {
            let setup = Setup { resolve_before_detour: true, ..Setup::default() };
            Dialer::with(&self.options.dial, cx, setup)
        };
        let mut inbound = Inbound::new(cx.clone(), self.own(), self.udp_timeout());
        if !self.serves {
            inbound = inbound.refusing();
        }
        let inbound = Arc::new(inbound);
        let system = match &plan.system {
            Some(settings) => Some(System::open(settings, &self.behind6(), self.serves, cx).await?),
            None => None,
        };
        let running = Running::start(plan, &self.peers, dialer, inbound, system, cx).await?;
        cx.plane.vault.leave(&shelf, Arc::downgrade(&running));
        cx.plane.vault.leave(&shelf_of_device, Arc::downgrade(&running.device));
        Ok(running)
    }
}

impl WireGuard {
    /// Gives a device the peers that are configured now.
    fn put_peers(&self, running: &Running) {
        if let Some(system) = running.system() {
            system.set_allowed(&self.behind6());
        }
        running.device.set_peers(&self.peers);
    }
}

impl Spec for WireGuard {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn claims(&self, out: &mut Claims) {
        if self.options.listen_port != 0 {
            out.0.push(Claim::Other(format!("UDP port {}", self.options.listen_port).into()));
        }
        if self.options.system && !self.options.name.is_empty() {
            out.0.push(Claim::Interface(self.options.name.as_str().into()));
        }
    }

    fn change(&self, next: &dyn Spec) -> Change {
        let same = |next: &Self| next.without_peers() == self.without_peers();
        match next.downcast_ref::<Self>() {
            Some(next) if same(next) => Change::Reconfigure,
            _ => Change::Replace,
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let running = self.device(&cx).await?;
            let changed = Arc::new(Notify::new());
            let outbound: Arc<dyn Outbound> = match running.system() {
                Some(system) => Arc::new(system::Dialled::new(&system, &cx, running.clone())?),
                None => {
                    let (stack, plane) = (running.stack.clone(), cx.plane.clone());
                    Arc::new(Dialled::new(stack, plane, running.clone()))
                }
            };
            let control = Handle { running: Arc::downgrade(&running), changed: changed.clone() };
            Ok(Component {
                outbound: Some(outbound),
                control: Some(Box::new(control)),
                run: Some(Box::pin(run(running, cx, changed))),
                ..Component::default()
            })
        })
    }
}

/// Takes other peers.
struct Handle {
    running: Weak<Running>,
    changed: Arc<Notify>,
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<WireGuard>() else { return };
        if let Some(running) = self.running.upgrade() {
            next.put_peers(&running);
            self.changed.notify_one();
        }
    }
}

/// The work of an instance: it stands for the device, and looks after peers with names.
async fn run(running: Arc<Running>, cx: BuildCx, changed: Arc<Notify>) -> Result<(), Fault> {
    running.inbound.set_instance(cx.clone());
    let _linger = Linger::new(&running, cx.cancel.clone());
    let look = async {
        let mut names = Names::default();
        loop {
            // A part of the device that panicked is not coming back.
            if !running.is_sound() {
                return Err(Fault("tunnel: a task of it has ended".to_owned()));
            }
            names.find(&running, &cx).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = changed.notified() => {}
            }
        }
    };
    let beat = async {
        loop {
            cx.pulse.beat().await;
        }
    };
    tokio::select! {
        () = cx.cancel.cancelled() => Ok(()),
        why = running.failed() => Err(Fault(format!("tunnel: {why}"))),
        fault = look => fault,
        () = beat => Ok(()),
    }
}
