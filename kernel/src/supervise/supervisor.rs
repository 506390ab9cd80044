//! The supervisor: one actor that owns every component. Its handlers never await; whatever takes
//! time runs in a task that casts the result back, and stale results are dropped.

mod exchange;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tracing::{error, info, warn};

pub(super) use exchange::Exchanged;

use super::{
    blueprint::{ComponentId, Planned, Settings},
    child::{Child, Draining, clear},
    leaf::{LeafMsg, Warm, warm},
    plan::Running,
    status::Status,
};
use crate::{
    Kind, Tag,
    component::{Claim, Claims, Dep, Deps, Incarnation},
    ledger::Cut,
    slot::Health,
    snapshot::{Plane, Snapshot},
};

/// A new generation, ready to be put in force at one blow.
pub(super) struct Commit {
    /// Warm instances of new and replaced components.
    pub(super) warm: Vec<Warm>,
    /// Components that could not be built; retried (degraded start).
    pub(super) failed: Vec<(Planned, String)>,
    /// Components that take their new options by message.
    pub(super) reconfigure: Vec<Planned>,
    /// Components whose options are equal, or differ in nothing that matters.
    pub(super) keep: Vec<Planned>,
    /// Components that leave.
    pub(super) removed: Vec<ComponentId>,
    /// What connections read from now on.
    pub(super) snapshot: Snapshot,
    /// Kernel settings.
    pub(super) settings: Settings,
    /// Runs at commit.
    pub(super) on_commit: Box<dyn FnOnce() + Send>,
}

impl Commit {
    /// Instances that join a generation which is in force already.
    pub(super) fn joining(
        warm: Vec<Warm>,
        failed: Vec<(Planned, String)>,
        snapshot: Snapshot,
        settings: Settings,
    ) -> Self {
        Self {
            warm,
            failed,
            reconfigure: Vec::new(),
            keep: Vec::new(),
            removed: Vec::new(),
            snapshot,
            settings,
            on_commit: Box::new(|| ()),
        }
    }
}

pub(super) enum Message {
    /// What runs, and the last epoch of each component.
    Current(RpcReplyPort<(HashMap<ComponentId, Running>, HashMap<ComponentId, u64>)>),
    /// Put a generation in force. Answers with the actors that were told to reconfigure.
    Commit(Box<Commit>, RpcReplyPort<Vec<tokio::task::JoinHandle<bool>>>),
    /// Replace an instance whose claims cannot be shared.
    Exchange(Planned, RpcReplyPort<Result<(), String>>),
    Exchanged(Box<Exchanged>),
    /// Operator: a fresh instance of one component.
    Restart(ComponentId, RpcReplyPort<Result<u64, String>>),
    Restarted(ComponentId, u64, Result<Box<Warm>, String>, RpcReplyPort<Result<u64, String>>),
    /// Try again.
    Retry(ComponentId, u64),
    Started(ComponentId, u64, Result<Box<Warm>, String>),
    Tick,
    Sweep,
    Status(RpcReplyPort<Status>),
    /// Stop accepting everywhere. Flows go on.
    StopAccepting(RpcReplyPort<()>),
    /// Stop services. Answers with their actors.
    StopServices(RpcReplyPort<Vec<ActorRef<LeafMsg>>>),
}

pub(super) struct Supervisor;

pub(super) struct State {
    plane: Arc<Plane>,
    children: HashMap<ComponentId, Child>,
    draining: Vec<Draining>,
    epochs: HashMap<ComponentId, u64>,
    settings: Settings,
    started: Instant,
    stopping: bool,
}

impl Actor for Supervisor {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<Plane>;

    async fn pre_start(
        &self,
        me: ActorRef<Message>,
        plane: Arc<Plane>,
    ) -> Result<State, ActorProcessingErr> {
        me.send_after(super::DEFAULT_PULSE, || Message::Tick);
        Ok(State {
            plane,
            children: HashMap::new(),
            draining: Vec::new(),
            epochs: HashMap::new(),
            settings: Settings::default(),
            started: Instant::now(),
            stopping: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.on(&me, message);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, why) => (cell, why.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, why) => {
                (cell, why.unwrap_or_else(|| "stopped".to_owned()))
            }
            _ => return Ok(()),
        };
        state.draining.retain(|old| old.live.actor.get_id() != cell.get_id());
        let id = state.children.iter().find_map(|(id, child)| {
            let live = child.live.as_ref()?;
            (live.actor.get_id() == cell.get_id()).then(|| id.clone())
        });
        if let Some(id) = id {
            state.fail(&me, &id, why);
        }
        Ok(())
    }
}

impl State {
    fn on(&mut self, me: &ActorRef<Message>, message: Message) {
        match message {
            Message::Current(reply) => {
                let running = self.children.iter().map(|(id, child)| {
                    let planned = &child.planned;
                    (
                        id.clone(),
                        Running { type_name: planned.type_name, spec: planned.spec.clone() },
                    )
                });
                let _ = reply.send((running.collect(), self.epochs.clone()));
            }
            Message::Commit(commit, reply) => {
                let told = self.commit(me, *commit);
                let _ = reply.send(told);
            }
            Message::Exchange(planned, reply) => self.exchange(me, planned, reply),
            Message::Exchanged(done) => self.exchanged(me, *done),
            Message::Restart(id, reply) => self.restart(me, id, reply),
            Message::Restarted(id, attempt, result, reply) => {
                let answer = match (self.current(&id, attempt), result) {
                    (true, Ok(warm)) => {
                        let epoch = warm.life.epoch;
                        self.resume(me, *warm);
                        Ok(epoch)
                    }
                    (false, Ok(warm)) => {
                        warm.discard();
                        Err("the component changed meanwhile".to_owned())
                    }
                    (_, Err(why)) => Err(why),
                };
                let _ = reply.send(answer);
            }
            Message::Retry(id, attempt) => {
                if self.current(&id, attempt) && !self.stopping {
                    self.start(me, id, attempt);
                }
            }
            Message::Started(id, attempt, result) => match (self.current(&id, attempt), result) {
                (true, Ok(warm)) => {
                    info!(component = %warm.life, epoch = warm.life.epoch, "restarted");
                    self.resume(me, *warm);
                    if let Some(child) = self.children.get_mut(&id) {
                        child.count_restart();
                    }
                }
                (true, Err(why)) => self.fail(me, &id, why),
                (false, Ok(warm)) => warm.discard(),
                (false, Err(_)) => {}
            },
            Message::Tick => self.tick(me),
            Message::Sweep => self.sweep(),
            Message::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Message::StopServices(reply) => {
                self.stopping = true;
                let services = self.children.iter().filter(|(id, _)| id.kind == Kind::Service);
                let live = services.filter_map(|(_, child)| child.live.as_ref());
                let stopped = live.map(|live| {
                    live.cancel.cancel();
                    live.actor.clone()
                });
                let _ = reply.send(stopped.collect());
            }
            Message::StopAccepting(reply) => {
                self.stopping = true;
                for child in self.children.values() {
                    if let Some(live) = &child.live
                        && matches!(child.planned.id.kind, Kind::Inbound | Kind::Endpoint)
                    {
                        live.cancel.cancel();
                    }
                }
                sweep_soon(me);
                let _ = reply.send(());
            }
        }
    }

    /// Puts a generation in force. Nothing here can fail or wait.
    fn commit(
        &mut self,
        me: &ActorRef<Message>,
        commit: Commit,
    ) -> Vec<tokio::task::JoinHandle<bool>> {
        let before = self.plane.snapshot.load_full();
        let names = commit.snapshot.names.clone();
        self.settings = commit.settings;
        for planned in commit.keep {
            if let Some(child) = self.children.get_mut(&planned.id) {
                child.planned = planned;
            }
        }
        // New faces go into their slots before anybody can route to them, inbounds (last in start
        // order) begin to accept when everything behind them is in place.
        let (inbounds, rest): (Vec<_>, Vec<_>) =
            commit.warm.into_iter().partition(|w| w.planned.id.kind == Kind::Inbound);
        let snapshot = Arc::new(commit.snapshot);
        let begun = self.adopt_all(me, rest, &snapshot);
        self.plane.snapshot.store(snapshot.clone());
        (commit.on_commit)();
        // Work that looks at the plane must find this generation there, not the one before.
        self.activate(&begun);
        let begun = self.adopt_all(me, inbounds, &snapshot);
        self.activate(&begun);
        let mut told = Vec::new();
        for planned in commit.reconfigure {
            told.extend(self.reconfigure(me, planned));
        }
        for id in commit.removed {
            if let Some(child) = self.children.remove(&id) {
                // An endpoint that became an outbound of the same tag keeps its slot.
                if !names.outbounds.contains_key(&id.tag) || id.kind == Kind::DnsServer {
                    clear(&child.planned, &before.names, Health::Removed);
                }
                let status = child.status();
                if let Some(live) = child.live {
                    let deadline = Instant::now() + self.settings.drain;
                    self.draining.push(Draining::new(live, status, Some(deadline)));
                }
            }
        }
        for (planned, why) in commit.failed {
            let id = planned.id.clone();
            let child =
                self.children.entry(id.clone()).or_insert_with(|| Child::new(planned.clone()));
            child.planned = planned;
            self.fail(me, &id, why);
        }
        self.forget_users();
        sweep_soon(me);
        told
    }

    /// Managed users whose service has left the configuration go with it.
    fn forget_users(&self) {
        let mut deps = Deps::default();
        for (id, child) in &self.children {
            if id.kind == Kind::Service {
                child.planned.spec.deps(&mut deps);
            }
        }
        let managed = |tag: &Tag| deps.0.contains(&Dep::Users(tag.clone()));
        for tag in self.plane.users.retain(managed) {
            let id = ComponentId::new(Kind::Inbound, tag);
            if let Some(live) = self.children.get(&id).and_then(|child| child.live.as_ref()) {
                let _ = live.actor.cast(LeafMsg::NoUsers);
            }
        }
    }

    /// Puts instances into their slots, and says which.
    fn adopt_all(
        &mut self,
        me: &ActorRef<Message>,
        warm: Vec<Warm>,
        snapshot: &Snapshot,
    ) -> Vec<ComponentId> {
        let ids = warm.iter().map(|warm| warm.planned.id.clone()).collect();
        for warm in warm {
            self.adopt(me, warm, snapshot);
        }
        ids
    }

    fn activate(&self, ids: &[ComponentId]) {
        ids.iter().filter_map(|id| self.children.get(id)).for_each(Child::activate);
    }

    /// Makes a restarted instance the one in force, and lets it work.
    fn resume(&mut self, me: &ActorRef<Message>, warm: Warm) {
        let id = warm.planned.id.clone();
        let snapshot = self.plane.snapshot.load_full();
        self.adopt(me, warm, &snapshot);
        self.activate(&[id]);
    }

    /// Makes a warm instance the one in force; the one before drains.
    fn adopt(&mut self, me: &ActorRef<Message>, warm: Warm, snapshot: &Snapshot) {
        let id = warm.planned.id.clone();
        self.epochs.insert(id.clone(), warm.life.epoch);
        let child =
            self.children.entry(id.clone()).or_insert_with(|| Child::new(warm.planned.clone()));
        let mut status = child.status();
        if let Some(old) = child.adopt(warm, &snapshot.names) {
            status.type_name = old.life.type_name;
            self.draining.push(Draining::new(old, status, None));
        }
        if child.is_dead() {
            self.fail(me, &id, "stopped before it was put in force".to_owned());
        }
    }

    fn reconfigure(
        &mut self,
        me: &ActorRef<Message>,
        planned: Planned,
    ) -> Option<tokio::task::JoinHandle<bool>> {
        let id = planned.id.clone();
        let child = self.children.get_mut(&id)?;
        child.planned = planned.clone();
        let Some(live) = &child.live else {
            // A start that is under way still has the old options: begin anew with these.
            child.attempt += 1;
            let attempt = child.attempt;
            let _ = me.cast(Message::Retry(id, attempt));
            return None;
        };
        let actor = live.actor.clone();
        Some(tokio::spawn(async move {
            let call = actor.call(
                |reply| LeafMsg::Reconfigure(planned.spec, reply),
                Some(Duration::from_secs(2)),
            );
            let done = matches!(call.await, Ok(ractor::rpc::CallResult::Success(())));
            if !done {
                error!(component = %planned.id, "did not take its new options in time: restarting it");
                actor.kill();
            }
            done
        }))
    }

    fn fail(&mut self, me: &ActorRef<Message>, id: &ComponentId, why: String) {
        let Some(child) = self.children.get_mut(id) else { return };
        let names = self.plane.snapshot.load().names.clone();
        let epoch = child.epoch;
        let kind_type = format!("{}/{}[{}]", id.kind.name(), child.planned.type_name, id.tag);
        let (delay, attempt) = child.fail(why.clone(), &names, &self.settings.supervision);
        warn!(
            component = %kind_type,
            epoch,
            state = child.state.as_str(),
            "component failed: {why}; next start in {delay:?}"
        );
        let id = id.clone();
        me.send_after(delay, move || Message::Retry(id, attempt));
    }

    /// Whether a result still belongs to the component as it is now.
    fn current(&self, id: &ComponentId, attempt: u64) -> bool {
        self.children.get(id).is_some_and(|child| child.attempt == attempt)
    }

    fn start(&mut self, me: &ActorRef<Message>, id: ComponentId, attempt: u64) {
        let Some(start) = self.warm(me, &id) else { return };
        let me = me.clone();
        tokio::spawn(async move {
            let result = start.await.map(Box::new);
            let _ = me.cast(Message::Started(id, attempt, result));
        });
    }

    fn warm(
        &self,
        me: &ActorRef<Message>,
        id: &ComponentId,
    ) -> Option<impl Future<Output = Result<Warm, String>> + use<>> {
        let planned = self.children.get(id)?.planned.clone();
        let epoch = self.epochs.get(id).copied().unwrap_or(0) + 1;
        let names = self.plane.snapshot.load().names.clone();
        let deadline = self.settings.supervision.start_deadline;
        Some(warm(me.get_cell(), self.plane.clone(), names, planned, epoch, deadline))
    }

    fn tick(&mut self, me: &ActorRef<Message>) {
        me.send_after(self.settings.supervision.pulse, || Message::Tick);
        if !self.stopping {
            let silent: Vec<_> = self
                .children
                .iter_mut()
                .filter_map(|(id, child)| child.is_silent().then(|| id.clone()))
                .collect();
            for id in silent {
                self.fail(me, &id, "its worker loop gave no sign of life".to_owned());
            }
        }
        if !self.draining.is_empty() {
            self.drain();
        }
        self.sweep();
        if self.plane.ledger.burst_has_passed() {
            tokio::task::spawn_blocking(crate::relay::give_memory_back);
        }
    }

    fn drain(&mut self) {
        let mut busy: HashSet<*const Incarnation> = HashSet::new();
        for entry in self.plane.ledger.list() {
            busy.insert(Arc::as_ptr(&entry.inbound));
            busy.extend(entry.hops().iter().map(Arc::as_ptr));
        }
        let now = Instant::now();
        let ledger = &self.plane.ledger;
        self.draining.retain(|old| {
            let life = &old.live.life;
            let overdue = old.deadline.is_some_and(|deadline| now >= deadline);
            if busy.contains(&Arc::as_ptr(life)) && !overdue {
                return true;
            }
            if overdue {
                ledger.cut_where(Cut::Removed, |entry| {
                    Arc::ptr_eq(&entry.inbound, life)
                        || entry.passes(|hop| std::ptr::eq(hop, &**life))
                });
            }
            old.live.actor.stop(None);
            false
        });
    }

    /// Addresses of components that are down and will be back, but for `except`.
    fn spared(&self, except: Option<&ComponentId>) -> HashSet<SocketAddr> {
        let down =
            self.children.iter().filter(|(id, child)| child.live.is_none() && Some(*id) != except);
        let mut claims = Claims::default();
        down.for_each(|(_, child)| child.planned.spec.claims(&mut claims));
        let addresses = claims.0.into_iter().filter_map(|claim| match claim {
            Claim::TcpListen(addr, _) | Claim::UdpListen(addr, _) => Some(addr),
            _ => None,
        });
        addresses.collect()
    }

    /// Closes listening sockets that nobody needs, sparing those of components that will be back.
    fn sweep(&mut self) {
        let spared = match self.stopping {
            true => HashSet::new(),
            false => self.spared(None),
        };
        self.plane.vault.sweep(|key| spared.contains(&key.addr));
    }

    fn status(&self) -> Status {
        let mut components: Vec<_> = self.children.values().map(Child::status).collect();
        components.sort_by(|a, b| a.id.cmp(&b.id));
        components.extend(self.draining.iter().map(|old| old.status.clone()));
        Status {
            generation: self.plane.snapshot.load().generation,
            connections: self.plane.ledger.len(),
            sockets: self.plane.vault.len(),
            uptime: self.started.elapsed(),
            components,
        }
    }
}

/// Has unused sockets closed. What held them lets go of them when its tasks are dropped, which takes a moment: so they are
/// looked for after one, and then with each tick.
fn sweep_soon(me: &ActorRef<Message>) {
    me.send_after(Duration::from_millis(20), || Message::Sweep);
}
