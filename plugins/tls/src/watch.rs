//! Looking at files for changes, as the daemon does for its configuration: once a second, which works on every file
//! system and through every way of replacing a file.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Time between two looks; a change is acted upon when two looks agree, so that a certificate and its key are
/// both there.
const INTERVAL: Duration = Duration::from_secs(1);

/// Files as they were before somebody read them. A directory stands for the files directly in it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    paths: Arc<[PathBuf]>,
    seen: u64,
}

impl Watched {
    /// Looks at the files; to be called before they are read, so that no change is missed.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Arc<[PathBuf]> = paths.into_iter().collect();
        Self { seen: fingerprint(&paths), paths }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Calls `changed` in a thread that may block whenever the files have changed, until cancelled, or until
    /// `changed` says that nobody is interested any more.
    pub(crate) async fn watch(
        self,
        cancel: CancellationToken,
        changed: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let Self { paths, seen: mut acted } = self;
        let changed = Arc::new(changed);
        let mut last = acted;
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = cancel.cancelled() => return,
            }
            let looked = paths.clone();
            let look = tokio::task::spawn_blocking(move || fingerprint(&looked)).await;
            let now = look.unwrap_or_default();
            let settled = now == last;
            last = now;
            if !settled || now == acted {
                continue;
            }
            acted = now;
            let changed = changed.clone();
            if !tokio::task::spawn_blocking(move || changed()).await.unwrap_or(true) {
                return;
            }
        }
    }
}

fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        identity(path).hash(&mut hasher);
        let mut inside: Vec<_> = std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| (entry.path(), identity(&entry.path())))
            .collect();
        inside.sort();
        inside.hash(&mut hasher);
    }
    hasher.finish()
}

type Identity = (u64, u64, u64, i64, i64);

/// What the file is and when it was written; `None` while it is not there.
fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
