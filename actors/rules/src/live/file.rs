//! Rule-sets in files: reading one, and noticing that it has changed.

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use crosspoint_kernel::component::Fault;
use crosspoint_schema::options::RuleSetFormat;
use tracing::{error, info};

use super::set::LiveSet;

/// Time between two looks at a file; a change is acted upon when two looks agree. Looking works on every file system
/// and through every way of replacing a file.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a file is and when it was written: device, inode, size, time.
pub(super) type Identity = (u64, u64, u64, i64, i64);

fn identity(path: &str) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Reads the file and puts its rules in force. Blocks.
pub(super) fn load(set: &LiveSet, path: &str, format: RuleSetFormat) -> Result<(), String> {
    // First: a change while it is read must be seen as one.
    set.known.lock().file = identity(path);
    let bytes = std::fs::read(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    set.put_bytes(format, &bytes)
}

/// The system's reason without decoration, as the reference prints it.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_lowercase);
    first.chain(chars).collect()
}

/// Runs something that may block on the file system. A panic is told, not passed on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| panic.to_string())
}

/// Loads the file whenever it has changed. A bad file leaves the rules as they are.
pub(super) async fn watch(
    set: Arc<LiveSet>,
    path: String,
    format: RuleSetFormat,
) -> Result<(), Fault> {
    let mut acted = set.known.lock().file;
    let mut last = acted;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let at = path.clone();
        let now = blocking(move || identity(&at)).await.map_err(Fault)?;
        let settled = now == last;
        last = now;
        if !settled || now == acted {
            continue;
        }
        let (loading, at) = (set.clone(), path.clone());
        let result = blocking(move || load(&loading, &at, format)).await.and_then(|done| done);
        let tag = set.tag();
        match result {
            Ok(()) => info!("updated rule-set {tag} from {path}"),
            Err(why) => error!("reload rule-set {tag}: {why}; the rules before stay in force"),
        }
        // What was read last, good or bad.
        acted = set.known.lock().file;
    }
}
