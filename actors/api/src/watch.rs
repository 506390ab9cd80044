//! The component that reloads when a configuration file changes.
//!
//! It looks at the files once a second instead of asking inotify: that works on every file system and through every way
//! of replacing a file (rename, symbolic link swap, bind mount), and costs a few system calls a second.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Spec,
    component::Fault,
    supervise::{ComponentId, Handle, Planned},
};
use tracing::info;

/// Time between two looks; a change is acted upon when two looks agree.
const INTERVAL: Duration = Duration::from_secs(1);

/// Type and tag of the watching component.
const NAME: &str = "watch";

/// Where the component finds the daemon to reload, once it runs.
pub type HandleCell = Arc<OnceLock<Handle>>;

/// What to watch.
#[derive(Clone)]
pub struct WatchSpec {
    /// Configuration files.
    pub files: Vec<PathBuf>,
    /// Directories, of which every `*.json` directly inside counts.
    pub directories: Vec<PathBuf>,
    /// The daemon to reload.
    pub handle: HandleCell,
}

impl std::fmt::Debug for WatchSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchSpec")
            .field("files", &self.files)
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

impl WatchSpec {
    /// The component, to be planned with every configuration that wants it.
    pub fn planned(self) -> Planned {
        Planned {
            id: ComponentId::new(Kind::Service, NAME),
            type_name: NAME,
            spec: Arc::new(self),
            path: String::new(),
        }
    }
}

impl Spec for WatchSpec {
    fn canonical(&self) -> serde_json::Map<String, serde_json::Value> {
        let text = |paths: &[PathBuf]| -> serde_json::Value {
            paths.iter().map(|path| path.display().to_string()).collect()
        };
        [
            ("files".to_owned(), text(&self.files)),
            ("directories".to_owned(), text(&self.directories)),
        ]
        .into_iter()
        .collect()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let seen = look(self.clone()).await;
            let run = async move {
                tokio::select! {
                    () = cx.cancel.cancelled() => Ok(()),
                    end = watch(self, seen) => end,
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

async fn watch(spec: Arc<WatchSpec>, mut acted: u64) -> Result<(), Fault> {
    let mut last = acted;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = look(spec.clone()).await;
        let settled = now == last;
        last = now;
        if !settled || now == acted {
            continue;
        }
        let Some(handle) = spec.handle.get().cloned() else { continue };
        acted = now;
        info!("configuration files changed: reloading");
        // In a task of its own: the reload may remove this very component.
        tokio::spawn(async move { handle.reload().await });
    }
}

async fn look(spec: Arc<WatchSpec>) -> u64 {
    // File systems may hang. A look that panics counts as one that saw nothing.
    tokio::task::spawn_blocking(move || fingerprint(&spec.files, &spec.directories))
        .await
        .unwrap_or_default()
}

/// A number that changes with the set of files, and whenever one is written or replaced.
fn fingerprint(files: &[PathBuf], directories: &[PathBuf]) -> u64 {
    let mut found = BTreeMap::new();
    for file in files {
        found.insert(file.clone(), identity(file));
    }
    for entry in
        directories.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let identity = identity(&path);
            found.insert(path, identity);
        }
    }
    let mut hasher = DefaultHasher::new();
    found.hash(&mut hasher);
    hasher.finish()
}

type Identity = (u64, u64, u64, i64, i64);

/// What the file is and when it was written; `None` while it is not there.
fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_writes_replacements_and_new_files() {
        let dir = tempfile::tempdir().unwrap();
        let (file, parts) = (dir.path().join("config.json"), dir.path().join("conf.d"));
        std::fs::create_dir(&parts).unwrap();
        let look = || fingerprint(std::slice::from_ref(&file), std::slice::from_ref(&parts));
        let mut seen = vec![look()];
        std::fs::write(&file, "{}").unwrap();
        seen.push(look());
        assert_eq!(look(), look());
        // Replaced by a file of the same size and time of writing: the inode tells.
        let old = std::fs::metadata(&file).unwrap().modified().unwrap();
        let next = dir.path().join("next");
        std::fs::write(&next, "[]").unwrap();
        std::fs::File::open(&next).unwrap().set_modified(old).unwrap();
        std::fs::rename(&next, &file).unwrap();
        seen.push(look());
        std::fs::write(parts.join("a.json"), "{}").unwrap();
        seen.push(look());
        std::fs::write(parts.join("a.txt"), "{}").unwrap();
        assert_eq!(Some(&look()), seen.last());
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
