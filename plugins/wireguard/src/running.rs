//! A device at work: its tasks, its stack, and how long they live.

use std::{any::Any, net::IpAddr, sync::Arc};

use crosspoint_kernel::{BuildError, component::BuildCx, net::dial::Dialer};
use crosspoint_netstack::{Inbound, Netstack, Packets, Settings};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    device::{Device, Inward},
    keys::Key,
    outer::{self, Outer},
    peers::Config,
    system::System,
    workers::Workers,
};

/// What a device is made of; one that differs in any of it is another device.
#[derive(Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) key: Key,
    pub(crate) listen_port: u16,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: usize,
    pub(crate) workers: usize,
    pub(crate) dial: crosspoint_schema::options::DialOptions,
    /// An interface of the system.
    pub(crate) system: Option<crosspoint_tundev::Settings>,
}

/// A device at work. The component and every flow through it hold it: when the last of them goes, its tasks end and its
/// socket is closed.
pub(crate) struct Running {
    pub(crate) plan: Plan,
    pub(crate) device: Arc<Device>,
    pub(crate) stack: Arc<Netstack>,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) dialer: Dialer,
    outer: Arc<Outer>,
    system: Mutex<Option<Arc<System>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    broken: watch::Receiver<Option<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.get_mut().iter().for_each(JoinHandle::abort);
    }
}

impl Running {
    /// Opens the socket and starts.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub(crate) async fn start(
        plan: Plan,
        peers: &[Config],
        dialer: impl Fn() -> Result<Dialer, BuildError>,
        inbound: Arc<Inbound>,
        system: Option<Arc<System>>,
        cx: &BuildCx,
    ) -> Result<Arc<Self>, BuildError> {
        let detour = !plan.dial.detour.is_empty();
        let opened = outer::open(dialer()?, detour, plan.listen_port).await;
        let (outer, mut receiver) =
            opened.map_err(|error| BuildError::io("open the tunnel", error.into()))?;
        let device = Arc::new(Device::new(plan.key, peers, outer.clone(), plan.mtu));
        let settings = Settings { addresses: plan.addresses.clone(), mtu: plan.mtu };
        let stack = Arc::new(Netstack::new(settings, device.clone(), inbound.clone()));
        let (sender, broken) = watch::channel(None);
        let inward = Inward {
            device: device.clone(),
            inside: Packets::new(),
            deliver: {
                let (stack, system) = (stack.clone(), system.clone());
                move |packets: &Packets| match &system {
                    Some(system) => system.take(packets, &stack),
                    None => stack.input(packets.iter()),
                }
            },
        };
        let (mut sink, mut tasks) = Workers::new(inward, plan.workers);
        let receive = {
            let (outer, cx) = (outer.clone(), cx.clone());
            async move {
                let why = match receiver.run(&outer, &cx, &mut sink).await {
                    Ok(()) => "the socket was closed".to_owned(),
                    Err(error) => error.to_string(),
                };
                sender.send_replace(Some(why));
            }
        };
        let tick = {
            let device = device.clone();
            async move { device.tick().await }
        };
        let timers = {
            let stack = stack.clone();
            async move { stack.run().await }
        };
        tasks.extend([tokio::spawn(receive), tokio::spawn(tick), tokio::spawn(timers)]);
        if let Some(system) = &system {
            system.start(device.clone());
        }
        let tasks = Mutex::new(tasks);
        let running = Arc::new(Self {
            plan,
            device,
            stack,
            inbound,
            dialer: dialer()?,
            outer,
            system: Mutex::new(system),
            tasks,
            broken,
        });
        let keep: Arc<dyn Any + Send + Sync> = running.clone();
        running.inbound.keeps(Arc::downgrade(&keep));
        Ok(running)
    }

    /// Whether all of it still works.
    pub(crate) fn is_sound(&self) -> bool {
        let interface = self.system().is_none_or(|system| system.is_sound());
        interface
            && self.broken.borrow().is_none()
            && self.tasks.lock().iter().all(|task| !task.is_finished())
    }

    /// The interface of the system, if it has one.
    pub(crate) fn system(&self) -> Option<Arc<System>> {
        self.system.lock().clone()
    }

    /// Ends the device though flows go through it: they lead nowhere from now on. Its port and its interface are free when
    /// this returns.
    pub(crate) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        self.outer.close();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        if let Some(system) = self.system() {
            system.stop().await;
        }
        *self.system.lock() = None;
    }

    /// Waits until something of it has failed, and says what.
    pub(crate) async fn failed(&self) -> String {
        let mut broken = self.broken.clone();
        let outside = async {
            match broken.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                // The task has panicked.
                Err(_) => "the receiver failed".to_owned(),
            }
        };
        match self.system() {
            None => outside.await,
            Some(system) => tokio::select! {
                why = outside => why,
                why = system.failed() => why,
            },
        }
    }
}
