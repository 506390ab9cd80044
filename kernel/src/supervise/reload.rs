//! The configuration actor: plan → warm → commit → drain, one reload at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
use tracing::{error, info};

use super::{
    blueprint::{Blueprint, ComponentId, Loader, Planned},
    leaf::{Warm, warm},
    plan::{self, Action},
    status::{Outcome, ReloadReport},
    supervisor::{Commit, Message},
};
use crate::{
    Kind,
    component::{Claim, Claims},
    plugin::start_rank,
    slot::Slot,
    snapshot::{Namespace, Plane, Snapshot},
    state::{OpenState, SharedState, State},
};

/// Canonical text of the shared parts of a configuration.
type Shared = BTreeMap<&'static str, serde_json::Value>;

pub(super) enum ConfigMsg {
    Reload(RpcReplyPort<ReloadReport>),
    Done(ReloadReport, Option<Shared>),
}

pub(super) struct Config;

pub(super) struct ConfigArgs {
    pub(super) plane: Arc<Plane>,
    pub(super) supervisor: ActorRef<Message>,
    pub(super) loader: Loader,
    pub(super) shared: Shared,
    pub(super) observer: Observer,
}

/// Told when a reload begins and ends (systemd wants to know both).
pub type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What an [`Observer`] is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// A reload begins.
    Reloading,
    /// It has ended, one way or the other.
    Reloaded(&'a ReloadReport),
}

pub(super) struct ConfigState {
    args: ConfigArgs,
    /// Those who wait for the reload that is under way.
    waiting: Vec<RpcReplyPort<ReloadReport>>,
    /// Those who asked meanwhile: they get a reload of their own, because files may have changed
    /// after the one under way had read them.
    next: Vec<RpcReplyPort<ReloadReport>>,
    busy: bool,
}

impl Actor for Config {
    type Msg = ConfigMsg;
    type State = ConfigState;
    type Arguments = ConfigArgs;

    async fn pre_start(
        &self,
        _me: ActorRef<ConfigMsg>,
        args: ConfigArgs,
    ) -> Result<ConfigState, ActorProcessingErr> {
        Ok(ConfigState { args, waiting: Vec::new(), next: Vec::new(), busy: false })
    }

    async fn handle(
        &self,
        me: ActorRef<ConfigMsg>,
        message: ConfigMsg,
        state: &mut ConfigState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConfigMsg::Reload(reply) if state.busy => state.next.push(reply),
            ConfigMsg::Reload(reply) => {
                state.waiting.push(reply);
                state.begin(me);
            }
            ConfigMsg::Done(report, shared) => {
                state.busy = false;
                if let Some(shared) = shared {
                    state.args.shared = shared;
                }
                match &report.error {
                    None => info!(generation = report.generation, "configuration reloaded"),
                    Some(why) => error!(
                        generation = report.generation,
                        "reload service: {why}; the configuration in force is unchanged"
                    ),
                }
                (state.args.observer)(Event::Reloaded(&report));
                for reply in state.waiting.drain(..) {
                    let _ = reply.send(report.clone());
                }
                if !state.next.is_empty() {
                    state.waiting = std::mem::take(&mut state.next);
                    state.begin(me);
                }
            }
        }
        Ok(())
    }
}

impl ConfigState {
    fn begin(&mut self, me: ActorRef<ConfigMsg>) {
        self.busy = true;
        (self.args.observer)(Event::Reloading);
        let (plane, supervisor) = (self.args.plane.clone(), self.args.supervisor.clone());
        let (loader, before) = (self.args.loader.clone(), self.args.shared.clone());
        let work = tokio::spawn(async move {
            let generation = plane.snapshot.load().generation;
            match load(loader).await {
                Ok(blueprint) => apply(&plane, &supervisor, blueprint, &before, false).await,
                Err(why) => (failed(generation, why), None),
            }
        });
        let generation = self.args.plane.snapshot.load().generation;
        tokio::spawn(async move {
            let (report, shared) = work
                .await
                .unwrap_or_else(|end| (failed(generation, format!("reload {end}")), None));
            let _ = me.cast(ConfigMsg::Done(report, shared));
        });
    }
}

/// Reads the configuration on a thread that may block.
pub(super) async fn load(loader: Loader) -> Result<Blueprint, String> {
    match tokio::task::spawn_blocking(move || loader()).await {
        Ok(result) => result.map_err(|error| error.0),
        Err(panic) => Err(format!("reading the configuration: {panic}")),
    }
}

fn failed(generation: u64, why: String) -> ReloadReport {
    ReloadReport { generation, error: Some(why), ..ReloadReport::default() }
}

/// Makes `blueprint` the configuration in force, or leaves everything as it is. At boot, components
/// that cannot be built do not stop the others unless the settings are strict.
pub(super) async fn apply(
    plane: &Arc<Plane>,
    supervisor: &ActorRef<Message>,
    mut blueprint: Blueprint,
    before: &Shared,
    boot: bool,
) -> (ReloadReport, Option<Shared>) {
    let generation = plane.snapshot.load().generation;
    if let Err(problem) = plan::validate(&blueprint) {
        return (failed(generation, problem.to_string()), None);
    }
    let Ok(CallResult::Success((running, epochs))) =
        supervisor.call(Message::Current, Some(Duration::from_secs(10))).await
    else {
        return (failed(generation, "the supervisor does not answer".to_owned()), None);
    };
    let plan = plan::plan(&running, &blueprint.components);
    let strict = blueprint.settings.strict || !boot;
    let state = match open(blueprint.state.take()).await {
        Ok(state) => state,
        Err(why) if strict => return (failed(generation, why), None),
        Err(why) => {
            error!("{why}; going on without it: choices end with this process");
            None
        }
    };
    let names = Arc::new(namespace(&plane.snapshot.load().names, &blueprint, state));
    let assembly = match (blueprint.assemble)(&names) {
        Ok(assembly) => assembly,
        Err(error) => return (failed(generation, error.to_string()), None),
    };
    let gate = blueprint.before_inbounds.take().filter(|_| boot);
    let (late, wanted): (Vec<_>, Vec<_>) = plan
        .steps
        .iter()
        .filter(|(_, action)| matches!(action, Action::Add | Action::Replace))
        .map(|(planned, _)| planned.clone())
        .partition(|planned| gate.is_some() && listens(planned));
    let deadline = blueprint.settings.supervision.start_deadline;
    let builder = Builder { plane, supervisor, names: &names, epochs: &epochs, deadline, strict };
    let (warmed, unbuilt) = match builder.warm_all(wanted).await {
        Ok(built) => built,
        Err(report) => return (report, None),
    };

    let mut report = ReloadReport { committed: true, ..ReloadReport::default() };
    let (mut keep, mut reconfigure, mut exchange) = (Vec::new(), Vec::new(), Vec::new());
    for (planned, action) in plan.steps {
        let failure = unbuilt.iter().find(|(p, _)| p.id == planned.id).map(|(_, why)| why.clone());
        let outcome = match action {
            _ if failure.is_some() => Outcome::Failed,
            Action::Keep => Outcome::Kept,
            Action::Reconfigure => Outcome::Reconfigured,
            Action::Replace | Action::Exchange => Outcome::Replaced,
            Action::Add => Outcome::Added,
        };
        report.components.push((planned.id.clone(), outcome, failure));
        match action {
            Action::Keep => keep.push(planned),
            Action::Reconfigure => reconfigure.push(planned),
            Action::Exchange => exchange.push(planned),
            Action::Add | Action::Replace => {}
        }
    }
    report.components.extend(plan.removed.iter().map(|id| (id.clone(), Outcome::Removed, None)));
    report.changed = changed(before, &blueprint.shared);
    report.generation = generation + 1;
    let snapshot = Snapshot {
        generation: generation + 1,
        routes: assembly.routes,
        names: names.clone(),
        resolver: assembly.resolver,
        defaults: assembly.defaults,
    };
    let mut commit = Commit {
        warm: warmed,
        failed: unbuilt,
        reconfigure,
        keep,
        removed: plan.removed,
        snapshot: snapshot.clone(),
        settings: blueprint.settings.clone(),
        on_commit: blueprint.on_commit,
    };
    if let Some(gate) = gate {
        if let Err(error) = put_in_force(supervisor, commit).await {
            return (failed(generation, error), None);
        }
        if let Err(why) = gate.await {
            return (failed(generation, why), None);
        }
        let (warm, failed) = match builder.warm_all(late).await {
            Ok(built) => built,
            Err(report) => return (report, None),
        };
        for (planned, why) in &failed {
            if let Some(row) = report.components.iter_mut().find(|(id, ..)| *id == planned.id) {
                (row.1, row.2) = (Outcome::Failed, Some(why.clone()));
            }
        }
        commit = Commit::joining(warm, failed, snapshot, blueprint.settings);
    }
    if let Err(error) = put_in_force(supervisor, commit).await {
        return (failed(generation, error), None);
    }
    for planned in exchange {
        let id = planned.id.clone();
        let done = supervisor.call(|reply| Message::Exchange(planned, reply), None).await;
        if let Ok(CallResult::Success(Err(why))) = done
            && let Some(row) = report.components.iter_mut().find(|(other, ..)| *other == id)
        {
            (row.1, row.2) = (Outcome::Failed, Some(why));
        }
    }
    (report, Some(blueprint.shared))
}

/// Whether it serves anybody: an inbound, or a service or an endpoint with an address of its own.
fn listens(planned: &Planned) -> bool {
    let mut claims = Claims::default();
    planned.spec.claims(&mut claims);
    let listening = |claim: &Claim| matches!(claim, Claim::TcpListen(..) | Claim::UdpListen(..));
    planned.id.kind == Kind::Inbound || claims.0.iter().any(listening)
}

/// Returns when all of it is really in force, new options of running instances, too.
async fn put_in_force(supervisor: &ActorRef<Message>, commit: Commit) -> Result<(), String> {
    let committed = supervisor.call(|reply| Message::Commit(Box::new(commit), reply), None).await;
    let Ok(CallResult::Success(told)) = committed else {
        return Err("the supervisor does not answer".to_owned());
    };
    for done in told {
        let _ = done.await;
    }
    Ok(())
}

/// Opens the state that a configuration asks for, on a thread that may block.
async fn open(state: Option<OpenState>) -> Result<Option<Arc<dyn State>>, String> {
    let Some(open) = state else { return Ok(None) };
    match tokio::task::spawn_blocking(open).await {
        Ok(Ok(state)) => Ok(Some(state)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("opening the cache file: {panic}")),
    }
}

/// Builds the instances of a generation.
struct Builder<'a> {
    plane: &'a Arc<Plane>,
    supervisor: &'a ActorRef<Message>,
    names: &'a Arc<Namespace>,
    epochs: &'a HashMap<ComponentId, u64>,
    deadline: Duration,
    /// The first failure ends it.
    strict: bool,
}

impl Builder<'_> {
    /// Builds instances side by side: those that work, and those that do not, with the reason. With `strict`, the
    /// report of a failure instead.
    async fn warm_all(
        &self,
        wanted: Vec<Planned>,
    ) -> Result<(Vec<Warm>, Vec<(Planned, String)>), ReloadReport> {
        let mut tasks = tokio::task::JoinSet::new();
        for planned in wanted {
            let epoch = self.epochs.get(&planned.id).copied().unwrap_or(0) + 1;
            let start = warm(
                self.supervisor.get_cell(),
                self.plane.clone(),
                self.names.clone(),
                planned.clone(),
                epoch,
                self.deadline,
            );
            tasks.spawn(async move { (planned, start.await) });
        }
        let (mut warmed, mut unbuilt) = (Vec::new(), Vec::new());
        // All are awaited whatever comes of the first ones, not aborted: an abort in the middle of a spawn would leave
        // an actor that nobody knows.
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((_, Ok(warm))) => warmed.push(warm),
                Ok((planned, Err(why))) => unbuilt.push((planned, why)),
                Err(end) => error!("building a component: {end}"),
            }
        }
        if self.strict
            && let Some((planned, why)) = unbuilt.pop()
        {
            warmed.into_iter().for_each(Warm::discard);
            // When the discarded instances have let go of their sockets.
            self.supervisor.send_after(Duration::from_millis(10), || Message::Sweep);
            let generation = self.plane.snapshot.load().generation;
            let mut report = failed(generation, describe(&planned, &why));
            report.components.push((planned.id, Outcome::Failed, Some(why)));
            return Err(report);
        }
        warmed.sort_by_key(|warm| start_rank(warm.planned.id.kind));
        Ok((warmed, unbuilt))
    }
}

/// `inbounds[0]: start inbound/mixed[in]: listen …`: where, what, why.
fn describe(planned: &Planned, why: &str) -> String {
    let ComponentId { kind, tag } = &planned.id;
    let who = format!("start {}/{}[{tag}]: {why}", kind.name(), planned.type_name);
    if planned.path.is_empty() { who } else { format!("{}: {who}", planned.path) }
}

fn changed(before: &Shared, after: &Shared) -> Vec<&'static str> {
    let mut keys: Vec<_> = before.keys().chain(after.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| before.get(key) != after.get(key));
    keys
}

/// The slots of a generation: those of the one before where the tag is the same, so that whoever
/// holds a slot sees the new instance.
fn namespace(
    before: &Namespace,
    blueprint: &Blueprint,
    state: Option<Arc<dyn State>>,
) -> Namespace {
    fn slot<T: ?Sized>(
        old: &HashMap<crate::Tag, Arc<Slot<T>>>,
        tag: &crate::Tag,
    ) -> (crate::Tag, Arc<Slot<T>>) {
        (tag.clone(), old.get(tag).cloned().unwrap_or_else(|| Slot::new(tag.clone())))
    }
    let mut names =
        Namespace { state: SharedState::follow(&before.state, state), ..Namespace::default() };
    for planned in &blueprint.components {
        let tag = &planned.id.tag;
        if matches!(planned.id.kind, Kind::Outbound | Kind::Endpoint) {
            names.outbounds.extend([slot(&before.outbounds, tag)]);
        }
        if matches!(planned.id.kind, Kind::Inbound | Kind::Endpoint) {
            names.injects.extend([slot(&before.injects, tag)]);
        }
        if planned.spec.takes_users() {
            names.users.extend([slot(&before.users, tag)]);
        }
        if planned.id.kind == Kind::DnsServer {
            names.dns.extend([slot(&before.dns, tag)]);
        }
    }
    names.default_outbound =
        blueprint.default_outbound.as_ref().and_then(|tag| names.outbounds.get(tag).cloned());
    names
}
