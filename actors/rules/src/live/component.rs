//! The component that keeps one rule-set up to date.

use std::{fmt, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Spec,
    supervise::{ComponentId, Planned},
};
use crosspoint_schema::{Options, decode::Map};
use tokio::sync::Semaphore;

use super::{
    file,
    library::Client,
    remote::Remote,
    set::{LiveSet, Origin},
};

/// What `ctl status` shows before the tag: a service of the user may have the same one.
const NAME: &str = "rule-set";

/// A set that needs work once the configuration is in force.
pub(super) struct SetSpec {
    pub(super) set: Arc<LiveSet>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) client: Client,
}

impl fmt::Debug for SetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SetSpec").field(&self.set).finish()
    }
}

impl SetSpec {
    /// The component; none for a set that never changes.
    pub(super) fn planned(self) -> Option<Planned> {
        let type_name = match &self.set.origin {
            Origin::Inline => return None,
            Origin::Local { .. } => "local",
            Origin::Remote { .. } => "remote",
        };
        let path = format!("route.rule_set[{}]", self.set.index);
        let id = ComponentId::new(Kind::Service, format!("{NAME}[{}]", self.set.tag()));
        Some(Planned { id, type_name, spec: Arc::new(self), path })
    }
}

impl Spec for SetSpec {
    fn canonical(&self) -> Map {
        let mut out = match &self.set.origin {
            Origin::Inline => Map::new(),
            Origin::Local { path, .. } => {
                let mut out = Map::new();
                out.insert("path".to_owned(), path.as_str().into());
                out
            }
            Origin::Remote { options, .. } => options.to_map(),
        };
        // Whether its rules are kept, the format and the compatibility switches count as well.
        out.insert(
            "fingerprint".to_owned(),
            format!("{:?} {}", self.set.fingerprint, self.set.named).into(),
        );
        out
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let cancel = cx.cancel.clone();
            let work: BoxFuture<'static, _> = match &self.set.origin {
                Origin::Inline => return Ok(Component::default()),
                Origin::Local { path, format } => {
                    let (set, path, format) = (self.set.clone(), path.clone(), *format);
                    if set.is_empty() {
                        let (loading, at) = (set.clone(), path.clone());
                        file::blocking(move || file::load(&loading, &at, format))
                            .await
                            .and_then(|done| done)
                            .map_err(BuildError::options)?;
                    }
                    Box::pin(file::watch(set, path, format))
                }
                Origin::Remote { options, format } => {
                    let remote = Remote {
                        set: self.set.clone(),
                        options: options.clone(),
                        format: *format,
                        permits: self.permits.clone(),
                        client: (self.client)(&cx.plane),
                        cx,
                    };
                    remote.restore().await;
                    remote.tell();
                    Box::pin(remote.run())
                }
            };
            let run = async move {
                tokio::select! {
                    () = cancel.cancelled() => Ok(()),
                    end = work => end,
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}
