//! A leaf: the actor of one instance of one component.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, rpc::CallResult};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Condition, Pulse, blueprint::Planned};
use crate::{
    BoxFuture, BuildCx, BuildError,
    component::{Control, Fault, Incarnation, Inject, Outbound, Spec},
    error::panic_text,
    resolve::DnsServer,
    snapshot::{Namespace, Plane},
    users::{ManagedUsers, User, UsersError},
};

/// The faces of an instance, which slots hold.
#[derive(Clone, Default)]
pub(super) struct Faces {
    pub(super) outbound: Option<Arc<dyn Outbound>>,
    pub(super) inject: Option<Arc<dyn Inject>>,
    pub(super) dns: Option<Arc<dyn DnsServer>>,
    pub(super) users: Option<Arc<dyn ManagedUsers>>,
}

pub(super) enum LeafMsg {
    /// The instance was committed: start its work.
    Activate,
    /// Take new options.
    Reconfigure(Arc<dyn Spec>, RpcReplyPort<()>),
    /// Take managed users; the first of the two is new.
    Users(Option<User>, Arc<[User]>, RpcReplyPort<Result<(), UsersError>>),
    /// Nobody manages the users any more.
    NoUsers,
    /// Answer when the work has ended.
    Finish(RpcReplyPort<()>),
    /// The work ended.
    RunEnded(Result<(), String>),
}

pub(super) struct Leaf;

pub(super) struct LeafArgs {
    spec: Arc<dyn Spec>,
    cx: BuildCx,
    deadline: std::time::Duration,
    faces: Arc<Mutex<Option<Faces>>>,
}

pub(super) struct LeafState {
    plane: Arc<Plane>,
    me: Arc<Incarnation>,
    takes_users: bool,
    cancel: CancellationToken,
    control: Option<Box<dyn Control>>,
    run: Option<BoxFuture<'static, Result<(), Fault>>>,
    running: Option<AbortOnDrop>,
    finish: Option<RpcReplyPort<()>>,
}

/// A task that does not outlive its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for Leaf {
    type Msg = LeafMsg;
    type State = LeafState;
    type Arguments = LeafArgs;

    async fn pre_start(
        &self,
        _me: ActorRef<LeafMsg>,
        args: LeafArgs,
    ) -> Result<LeafState, ActorProcessingErr> {
        let cancel = args.cx.cancel.clone();
        let (plane, me, takes_users) =
            (args.cx.plane.clone(), args.cx.me.clone(), args.spec.takes_users());
        let build = AssertUnwindSafe(args.spec.build(args.cx)).catch_unwind();
        let component = match tokio::time::timeout(args.deadline, build).await {
            Ok(Ok(built)) => built?,
            Ok(Err(panic)) => return Err(panicked(&*panic).into()),
            Err(_) => return Err(BuildError::Deadline(args.deadline).into()),
        };
        *args.faces.lock() = Some(Faces {
            outbound: component.outbound,
            inject: component.inject,
            dns: component.dns,
            users: None,
        });
        let (control, run) = (component.control, component.run);
        let (running, finish) = (None, None);
        Ok(LeafState { plane, me, takes_users, cancel, control, run, running, finish })
    }

    async fn handle(
        &self,
        me: ActorRef<LeafMsg>,
        message: LeafMsg,
        state: &mut LeafState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LeafMsg::Activate => {
                state.recall_users();
                if let Some(run) = state.run.take() {
                    let task = tokio::spawn(async move {
                        let end = match AssertUnwindSafe(run).catch_unwind().await {
                            Ok(result) => result.map_err(|fault| fault.0),
                            Err(panic) => Err(panicked(&*panic)),
                        };
                        // The actor may have stopped meanwhile; then nobody needs to know.
                        let _ = me.cast(LeafMsg::RunEnded(end));
                    });
                    state.running = Some(AbortOnDrop(task));
                }
            }
            LeafMsg::Reconfigure(spec, done) => {
                if let Some(control) = &mut state.control {
                    control.reconfigure(spec);
                }
                let _ = done.send(());
            }
            LeafMsg::Users(fresh, users, done) => {
                let _ = done.send(state.set_users(fresh, &users));
            }
            LeafMsg::NoUsers => {
                if let Some(control) = &mut state.control {
                    control.set_users(&[]);
                }
            }
            LeafMsg::Finish(done) if state.running.is_none() => {
                let _ = done.send(());
            }
            LeafMsg::Finish(done) => state.finish = Some(done),
            // Ended because it was told to stop accepting: the instance drains.
            LeafMsg::RunEnded(Ok(())) if state.cancel.is_cancelled() => {
                state.running = None;
                if let Some(done) = state.finish.take() {
                    let _ = done.send(());
                }
            }
            LeafMsg::RunEnded(Ok(())) => return Err("its work ended unexpectedly".into()),
            LeafMsg::RunEnded(Err(why)) => return Err(why.into()),
        }
        Ok(())
    }
}

impl LeafState {
    /// Users may have changed after the instance was built and before it could be told.
    fn recall_users(&mut self) {
        if self.takes_users
            && let Some(control) = &mut self.control
            && let Some(roll) = self.plane.users.get(&self.me.tag)
        {
            control.set_users(&roll.users());
        }
    }

    fn set_users(&mut self, fresh: Option<User>, users: &[User]) -> Result<(), UsersError> {
        let none = || UsersError::Invalid("the inbound takes no users".to_owned());
        let control = self.control.as_mut().filter(|_| self.takes_users).ok_or_else(none)?;
        if let Some(user) = fresh {
            control.check_user(&user).map_err(UsersError::Invalid)?;
        }
        // First the roll: a successor that is being built meanwhile must find them there.
        self.plane.users.open(&self.me.tag).put(users);
        control.set_users(users);
        Ok(())
    }
}

/// How long an inbound may take to put users in force.
const USERS_DEADLINE: Duration = Duration::from_secs(5);

/// Users of an inbound go to its actor.
struct ByMessage(ActorRef<LeafMsg>);

impl ManagedUsers for ByMessage {
    fn set(
        &self,
        users: Arc<[User]>,
        fresh: Option<User>,
    ) -> BoxFuture<'_, Result<(), UsersError>> {
        Box::pin(async move {
            let message = |done| LeafMsg::Users(fresh, users, done);
            match self.0.call(message, Some(USERS_DEADLINE)).await {
                Ok(CallResult::Success(result)) => result,
                _ => Err(UsersError::Down("the inbound does not answer".to_owned())),
            }
        })
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("panicked: {}", panic_text(panic))
}

/// A built instance that serves nothing yet.
pub(super) struct Warm {
    pub(super) planned: Planned,
    pub(super) life: Arc<Incarnation>,
    pub(super) cancel: CancellationToken,
    pub(super) pulse: Pulse,
    pub(super) condition: Condition,
    pub(super) actor: ActorRef<LeafMsg>,
    pub(super) faces: Faces,
}

impl Warm {
    /// Throws the instance away.
    pub(super) fn discard(self) {
        self.cancel.cancel();
        self.actor.stop(None);
    }
}

/// Builds an instance under the supervisor.
///
/// # Errors
/// Why it could not be built.
pub(super) async fn warm(
    supervisor: ActorCell,
    plane: Arc<Plane>,
    names: Arc<Namespace>,
    planned: Planned,
    epoch: u64,
    deadline: std::time::Duration,
) -> Result<Warm, String> {
    let life = Arc::new(Incarnation {
        kind: planned.id.kind,
        type_name: planned.type_name,
        tag: planned.id.tag.clone(),
        epoch,
    });
    let (cancel, pulse) = (CancellationToken::new(), Pulse::default());
    let condition = Condition::default();
    let faces = Arc::new(Mutex::new(None));
    let args = LeafArgs {
        spec: planned.spec.clone(),
        cx: BuildCx {
            me: life.clone(),
            cancel: cancel.clone(),
            plane,
            names,
            pulse: pulse.clone(),
            condition: condition.clone(),
        },
        deadline,
        faces: faces.clone(),
    };
    match Leaf::spawn_linked(None, Leaf, args, supervisor).await {
        Ok((actor, _)) => {
            let mut faces = faces.lock().take().unwrap_or_default();
            if planned.spec.takes_users() {
                faces.users = Some(Arc::new(ByMessage(actor.clone())));
            }
            Ok(Warm { planned, life, cancel, pulse, condition, actor, faces })
        }
        Err(ractor::SpawnErr::StartupFailed(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
