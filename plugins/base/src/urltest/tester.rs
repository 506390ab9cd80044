//! The worker of a group: tests, and what follows from them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crosspoint_kernel::Tag;
use crosspoint_kernel::component::{BuildCx, Fault, Outbound};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::snapshot::Plane;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::debug;

use super::pick::{Candidate, pick};
use super::url::Url;
use crate::group::{Delay, Interrupt, Members, history, leaf, supports};

/// Tests at the same time.
const CONCURRENCY: usize = 10;
/// A test that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What options say.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) url: Url,
    pub(super) interval: Duration,
    pub(super) idle_timeout: Duration,
    /// Milliseconds.
    pub(super) tolerance: u16,
    /// `interrupt_exist_connections`.
    pub(super) clients: bool,
}

struct State {
    settings: Arc<Settings>,
    /// Places of the members in use, for TCP and for UDP.
    picks: [Option<usize>; 2],
    active: Instant,
}

/// Members, the one in use, and the loop that finds out which one that should be.
pub(super) struct Tester {
    pub(super) members: Members,
    pub(super) interrupt: Interrupt,
    plane: Arc<Plane>,
    state: Mutex<State>,
    /// The loop sleeps until the group is used.
    asleep: AtomicBool,
    wake: Notify,
    /// Held by the one that tests.
    checking: tokio::sync::Mutex<()>,
}

fn place(network: Network) -> usize {
    usize::from(network == Network::Udp)
}

impl Tester {
    pub(super) fn new(
        members: Members,
        settings: Settings,
        interrupt: Interrupt,
        plane: Arc<Plane>,
    ) -> Self {
        let state =
            State { settings: Arc::new(settings), picks: [None; 2], active: Instant::now() };
        Self {
            members,
            interrupt,
            plane,
            state: Mutex::new(state),
            asleep: AtomicBool::new(false),
            wake: Notify::new(),
            checking: tokio::sync::Mutex::default(),
        }
    }

    /// Puts other settings in force. Their interval counts from now.
    pub(super) fn configure(&self, settings: Settings) {
        self.state.lock().settings = Arc::new(settings);
        self.wake.notify_one();
    }

    fn settings(&self) -> Arc<Settings> {
        self.state.lock().settings.clone()
    }

    /// The group is being used.
    pub(super) fn touch(&self) {
        // Between two uses the loop decides by the time of the first one how old the tests are.
        if self.asleep.swap(false, Ordering::AcqRel) {
            self.wake.notify_one();
        } else {
            self.state.lock().active = Instant::now();
        }
    }

    /// The member in use for that network.
    pub(super) fn current(&self, network: Network) -> Option<Arc<Slot<dyn Outbound>>> {
        let (picked, tolerance) = {
            let state = self.state.lock();
            (state.picks.get(place(network)).copied().flatten(), state.settings.tolerance)
        };
        let index = picked
            .or_else(|| pick(&self.candidates(network), None, tolerance).map(|(index, _)| index))?;
        self.members.iter().nth(index).cloned()
    }

    /// The member in use for TCP, or else for UDP.
    pub(super) fn selected(&self) -> Option<Tag> {
        let [tcp, udp] = self.state.lock().picks;
        self.members.iter().nth(tcp.or(udp)?).map(|slot| slot.tag.clone())
    }

    fn candidates(&self, network: Network) -> Vec<Candidate> {
        let candidate = |slot: &Arc<Slot<dyn Outbound>>| Candidate {
            delay: history().get(&leaf(slot)).map(|delay| delay.millis),
            able: supports(slot, network),
            up: slot.now().is_some(),
        };
        self.members.iter().map(candidate).collect()
    }

    /// Chooses anew by what is known now.
    pub(super) fn update(&self) {
        for network in [Network::Tcp, Network::Udp] {
            let candidates = self.candidates(network);
            let (switched, clients) = {
                let mut state = self.state.lock();
                let tolerance = state.settings.tolerance;
                let clients = state.settings.clients;
                let Some(current) = state.picks.get_mut(place(network)) else { continue };
                let before = *current;
                match pick(&candidates, before, tolerance) {
                    Some((index, measured))
                        if before.is_none() || (measured && before != Some(index)) =>
                    {
                        *current = Some(index);
                    }
                    _ => continue,
                }
                (before.and(*current), clients)
            };
            if let Some(slot) = switched.and_then(|index| self.members.iter().nth(index)) {
                debug!("urltest: {network} goes through {} now", slot.tag);
                self.interrupt.switched(&slot.tag, Some(network), clients);
            }
        }
    }

    /// Tests every member whose measurement is older than the interval; with `all`, every member.
    async fn check(self: &Arc<Self>, all: bool) {
        let _alone = self.checking.lock().await;
        let settings = self.settings();
        let mut seen = HashSet::new();
        let mut due = Vec::new();
        for slot in self.members.iter() {
            let real = leaf(slot);
            let fresh =
                history().get(&real).is_some_and(|delay| delay.taken.elapsed() < settings.interval);
            if (all || !fresh) && seen.insert(real.clone()) {
                let through = if real == slot.tag {
                    Some(slot.clone())
                } else {
                    self.plane.snapshot.load().names.outbounds.get(&real).cloned()
                };
                due.extend(through.map(|through| (real, through)));
            }
        }
        let mut running = JoinSet::new();
        for (real, through) in due {
            if running.len() >= CONCURRENCY {
                running.join_next().await;
            }
            let settings = settings.clone();
            running.spawn(async move {
                match tokio::time::timeout(TIMEOUT, settings.url.fetch(&through)).await {
                    Ok(Ok(millis)) => {
                        debug!("outbound {real} available: {millis}ms");
                        history().put(&real, Delay::now(millis));
                    }
                    Ok(Err(error)) => {
                        debug!("outbound {real} unavailable: {error}");
                        history().forget(&real);
                    }
                    Err(_) => {
                        debug!("outbound {real} unavailable: no answer within {TIMEOUT:?}");
                        history().forget(&real);
                    }
                }
            });
        }
        while running.join_next().await.is_some() {}
        self.update();
    }

    /// Tests at start; then, while the group is used, once in every interval.
    pub(super) async fn run(self: Arc<Self>, cx: BuildCx) -> Result<(), Fault> {
        let work = async {
            self.state.lock().active = Instant::now();
            self.check(false).await;
            loop {
                self.asleep.store(true, Ordering::Release);
                self.wake.notified().await;
                self.asleep.store(false, Ordering::Release);
                self.while_used().await;
            }
        };
        // What was measured says nothing of another way to the internet.
        let mut reroutes = cx.plane.network.reroutes();
        let network = async {
            while reroutes.changed().await.is_ok() {
                if self.plane.network.now().default_route().is_some() {
                    self.check(true).await;
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
            () = work => Ok(()),
            () = network => Ok(()),
            () = beat => Ok(()),
        }
    }

    async fn while_used(self: &Arc<Self>) {
        let stale = {
            let mut state = self.state.lock();
            let stale = state.active.elapsed() > state.settings.interval;
            state.active = if stale { Instant::now() } else { state.active };
            stale
        };
        if stale {
            self.check(false).await;
        }
        loop {
            let interval = self.settings().interval;
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                // Other settings.
                () = self.wake.notified() => continue,
            }
            let (active, idle_timeout) = {
                let state = self.state.lock();
                (state.active, state.settings.idle_timeout)
            };
            if active.elapsed() > idle_timeout {
                return;
            }
            self.check(false).await;
        }
    }
}
