//! The root: owns the plane, supervises the supervisor and the configuration actor. Their failure is
//! a defect that no restart inside the process repairs: the process ends with 70, and systemd
//! starts it again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent, rpc::CallResult};
use tokio::sync::watch;

use super::{
    blueprint::{ComponentId, LoadError, Loader},
    leaf::LeafMsg,
    reload::{Config, ConfigArgs, ConfigMsg, Observer, apply, load},
    status::{ReloadReport, Status},
    supervisor::{Message, Supervisor},
};
use crate::{
    ledger::Cut,
    snapshot::{Plane, Snapshot},
};

/// Exit code of a process whose kernel failed (EX_SOFTWARE of sysexits.h).
pub const EXIT_SOFTWARE: i32 = 70;

/// Why the daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A component cannot start, and the settings are strict; or validation failed.
    #[error("{0}")]
    Start(String),
    /// An actor could not be spawned: a defect.
    #[error("kernel: {0}")]
    Kernel(String),
}

/// The running daemon.
#[derive(Clone)]
pub struct Handle {
    plane: Arc<Plane>,
    supervisor: ActorRef<Message>,
    config: ActorRef<ConfigMsg>,
    fault: watch::Receiver<Option<String>>,
}

struct Root(watch::Sender<Option<String>>);

impl Actor for Root {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let why = match event {
            SupervisionEvent::ActorFailed(cell, why) => {
                format!("{:?} failed: {why}", cell.get_name().unwrap_or_default())
            }
            SupervisionEvent::ActorTerminated(cell, ..) => {
                format!("{:?} stopped", cell.get_name().unwrap_or_default())
            }
            _ => return Ok(()),
        };
        self.0.send_replace(Some(why));
        Ok(())
    }
}

/// Starts the kernel with the configuration that `loader` reads.
///
/// # Errors
/// See [`BootError`]. Components that cannot start are no error unless the settings are strict.
pub async fn boot(loader: Loader, observer: Observer) -> Result<(Handle, ReloadReport), BootError> {
    let plane = Arc::new(Plane::new(Snapshot::empty()));
    let (sender, fault) = watch::channel(None);
    let kernel = |error: ractor::SpawnErr| BootError::Kernel(error.to_string());
    let (root, _) = Root::spawn(None, Root(sender), ()).await.map_err(kernel)?;
    let (supervisor, _) =
        Supervisor::spawn_linked(None, Supervisor, plane.clone(), root.get_cell())
            .await
            .map_err(kernel)?;
    let blueprint = load(loader.clone()).await.map_err(LoadError)?;
    let (report, shared) = apply(&plane, &supervisor, blueprint, &BTreeMap::new(), true).await;
    if let Some(why) = report.error {
        return Err(BootError::Start(why));
    }
    let args = ConfigArgs {
        plane: plane.clone(),
        supervisor: supervisor.clone(),
        loader,
        shared: shared.unwrap_or_default(),
        observer,
    };
    let (config, _) =
        Config::spawn_linked(None, Config, args, root.get_cell()).await.map_err(kernel)?;
    Ok((Handle { plane, supervisor, config, fault }, report))
}

/// The kernel did not answer: it is stopping or has failed.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not answer")]
pub struct Gone;

impl Handle {
    /// What outlives components.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Reads the configuration anew and applies the difference.
    ///
    /// # Errors
    /// [`Gone`]; a configuration that cannot be applied is told in the report.
    pub async fn reload(&self) -> Result<ReloadReport, Gone> {
        match self.config.call(ConfigMsg::Reload, None).await {
            Ok(CallResult::Success(report)) => Ok(report),
            _ => Err(Gone),
        }
    }

    /// Puts a fresh instance of one component in force; flows of the old one go on.
    ///
    /// # Errors
    /// Why it could not be built.
    pub async fn restart(&self, id: ComponentId) -> Result<u64, String> {
        match self.supervisor.call(|reply| Message::Restart(id, reply), None).await {
            Ok(CallResult::Success(result)) => result,
            _ => Err(Gone.to_string()),
        }
    }

    /// Where everything stands.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn status(&self) -> Result<Status, Gone> {
        match self.supervisor.call(Message::Status, Some(Duration::from_secs(10))).await {
            Ok(CallResult::Success(status)) => Ok(status),
            _ => Err(Gone),
        }
    }

    /// Ends one connection. Returns whether it was live.
    pub fn close(&self, connection: u64) -> bool {
        self.plane.ledger.cut_where(Cut::Operator, |entry| entry.id == connection) > 0
    }

    /// Stops accepting, waits until the last flow has ended or `deadline` has passed, and cuts what
    /// is left. Returns how many were cut.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let _ = self.supervisor.call(Message::StopAccepting, Some(Duration::from_secs(5))).await;
        let wait = async {
            while !self.plane.ledger.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(deadline, wait).await.is_ok() {
            return 0;
        }
        let cut = self.plane.ledger.cut_where(Cut::Shutdown, |_| true);
        let gone = async {
            while !self.plane.ledger.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
        cut
    }

    /// Tells services to end, and waits until each has written what it has to write, up to `deadline`. Then takes
    /// away what components have put into the system.
    pub async fn finish(&self, deadline: Duration) {
        self.end_services(deadline).await;
        self.plane.vault.remove_traces();
    }

    async fn end_services(&self, deadline: Duration) {
        let stop = self.supervisor.call(Message::StopServices, Some(deadline)).await;
        let Ok(CallResult::Success(services)) = stop else { return };
        let all = async {
            for service in services {
                // One that has failed has nothing to write.
                let _ = service.call(LeafMsg::Finish, None).await;
            }
        };
        let _ = tokio::time::timeout(deadline, all).await;
    }

    /// Resolves when the kernel itself has failed, with the reason. The process should end with
    /// [`EXIT_SOFTWARE`].
    pub async fn failed(&self) -> String {
        let mut fault = self.fault.clone();
        match fault.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the root actor is gone".to_owned(),
        }
    }
}
