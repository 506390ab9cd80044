//! A leaf: the actor of one instance of one component.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Pulse, blueprint::Planned};
use crate::{
    BoxFuture, BuildCx, BuildError,
    component::{Control, Fault, Incarnation, Inject, Outbound, Spec},
    error::panic_text,
    resolve::DnsServer,
    snapshot::{Namespace, Plane},
};

/// The faces of an instance, which slots hold.
#[derive(Clone, Default)]
pub(super) struct Faces {
    pub(super) outbound: Option<Arc<dyn Outbound>>,
    pub(super) inject: Option<Arc<dyn Inject>>,
    pub(super) dns: Option<Arc<dyn DnsServer>>,
}

pub(super) enum LeafMsg {
    /// The instance was committed: start its work.
    Activate,
    /// Take new options.
    Reconfigure(Arc<dyn Spec>, RpcReplyPort<()>),
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
    cancel: CancellationToken,
    control: Option<Box<dyn Control>>,
    run: Option<BoxFuture<'static, Result<(), Fault>>>,
    running: Option<AbortOnDrop>,
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
        });
        Ok(LeafState { cancel, control: component.control, run: component.run, running: None })
    }

    async fn handle(
        &self,
        me: ActorRef<LeafMsg>,
        message: LeafMsg,
        state: &mut LeafState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LeafMsg::Activate => {
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
            // Ended because it was told to stop accepting: the instance drains.
            LeafMsg::RunEnded(Ok(())) if state.cancel.is_cancelled() => {}
            LeafMsg::RunEnded(Ok(())) => return Err("its work ended unexpectedly".into()),
            LeafMsg::RunEnded(Err(why)) => return Err(why.into()),
        }
        Ok(())
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
    let faces = Arc::new(Mutex::new(None));
    let args = LeafArgs {
        spec: planned.spec.clone(),
        cx: BuildCx {
            me: life.clone(),
            cancel: cancel.clone(),
            plane,
            names,
            pulse: pulse.clone(),
        },
        deadline,
        faces: faces.clone(),
    };
    match Leaf::spawn_linked(None, Leaf, args, supervisor).await {
        Ok((actor, _)) => {
            let faces = faces.lock().take().unwrap_or_default();
            Ok(Warm { planned, life, cancel, pulse, actor, faces })
        }
        Err(ractor::SpawnErr::StartupFailed(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
