//! The component that serves the control socket.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Spec,
    component::Fault,
    supervise::{ComponentId, Handle, Planned},
};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::{
    serve,
    socket::{Bound, SocketError},
};

/// Connections to the control socket that are served at once; more are told so and closed.
const MAX_CLIENTS: usize = 32;

/// How often the socket's name is checked: temporary directories are cleaned by others.
const NAME_CHECK: Duration = Duration::from_secs(10);

/// Type and tag of the control component.
const NAME: &str = "control";

/// What the control socket is about; survives restarts of the component that serves it.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    version: &'static str,
    bound: Mutex<Option<Arc<Bound>>>,
    handle: OnceLock<HandleBox>,
    clients: Semaphore,
    drained: watch::Sender<bool>,
}

/// [`Handle`] has nothing to print.
struct HandleBox(Handle);

impl std::fmt::Debug for HandleBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Control {
    /// Binds the socket, so that a failure is known before anything is started. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, version: &'static str) -> Result<Arc<Self>, SocketError> {
        let bound = Arc::new(Bound::new(path)?);
        Ok(Arc::new(Self {
            path: path.to_owned(),
            version,
            bound: Mutex::new(Some(bound)),
            handle: OnceLock::new(),
            clients: Semaphore::new(MAX_CLIENTS),
            drained: watch::channel(false).0,
        }))
    }

    /// Gives it the running daemon; until then, requests are answered with "starting".
    pub fn attach(&self, handle: Handle) {
        // A second handle would be one of the same daemon.
        let _ = self.handle.set(HandleBox(handle));
    }

    /// The running daemon.
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.get().map(|boxed| &boxed.0)
    }

    /// The version that `status` names.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Where the socket lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Resolves when a client has drained the daemon and the process should end.
    pub async fn drained(&self) {
        let mut drained = self.drained.subscribe();
        // The sender lives as long as `self`.
        let _ = drained.wait_for(|drained| *drained).await;
    }

    pub(crate) fn set_drained(&self) {
        self.drained.send_replace(true);
    }

    pub(crate) fn clients(&self) -> &Semaphore {
        &self.clients
    }

    /// Removes the socket's name. Called at the end of the process, which closes the socket.
    pub fn close(&self) {
        if let Some(bound) = self.lock().take() {
            bound.unlink();
        }
    }

    /// The component that serves this socket, to be planned with every configuration.
    pub fn planned(self: &Arc<Self>) -> Planned {
        Planned {
            id: ComponentId::new(Kind::Service, NAME),
            type_name: NAME,
            spec: Arc::new(ControlSpec { control: self.clone() }),
            path: String::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Bound>>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listening socket: the one that is there, or a new one after it was lost.
    fn listener(&self) -> Result<Arc<Bound>, SocketError> {
        let mut slot = self.lock();
        if let Some(bound) = slot.as_ref().filter(|bound| bound.is_reachable()) {
            return Ok(bound.clone());
        }
        *slot = None;
        let bound = Arc::new(Bound::new(&self.path)?);
        info!("control socket {} bound anew", self.path.display());
        *slot = Some(bound.clone());
        Ok(bound)
    }
}

/// Spec of the component that serves a [`Control`].
#[derive(Debug)]
pub struct ControlSpec {
    control: Arc<Control>,
}

impl Spec for ControlSpec {
    fn canonical(&self) -> serde_json::Map<String, serde_json::Value> {
        let path = self.control.path.display().to_string();
        [("path".to_owned(), path.into())].into_iter().collect()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let bound = self.control.listener().map_err(BuildError::options)?;
            let control = self.control.clone();
            let run = async move { accept(control, bound, cx).await };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

async fn accept(control: Arc<Control>, bound: Arc<Bound>, cx: BuildCx) -> Result<(), Fault> {
    let mut check = tokio::time::interval(NAME_CHECK);
    loop {
        tokio::select! {
            () = cx.cancel.cancelled() => return Ok(()),
            () = cx.pulse.beat() => {}
            _ = check.tick() => {
                if !bound.is_reachable() {
                    return Err(Fault(format!("{} was removed", control.path.display())));
                }
            }
            accepted = bound.accept() => match accepted {
                Ok(stream) => {
                    // A client's answer may come after this instance: it restarts itself, too.
                    tokio::spawn(serve::client(control.clone(), stream));
                }
                Err(error) => {
                    warn!(component = %cx.me, "accept: {error}");
                    // Out of descriptors: the client waits in the backlog meanwhile.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}
