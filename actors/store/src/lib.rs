//! The cache file (`experimental.cache_file`): state that survives a restart and a kill.
//!
//! ```text
//!  components ──write──▶ overlay ──once a second, at once for choices──▶ file (redb, one transaction)
//!      └──────read─────▶ overlay, then file (its last transaction)
//! ```
//! * Who writes waits for nothing: the overlay is a map, and a thread commits it. A kill at any moment loses at most
//!   what was written within the last second, and never a part of a transaction.
//! * Who reads waits for no commit. What was looked up of rejected answers is remembered.
//! * Fake addresses are in a journal (`journal`) until they are committed: a kill loses none that a client was told of, and a
//!   power cut what was given out within the last second, to nobody else.
//! * A file that is damaged, or that is something else, is set aside under another name and never stops the start.
//! * A file of the reference ([`bbolt`]) is imported once and kept under another name.
//!
//! Everything but fake addresses is kept apart by `cache_id`, as in the reference (parity/semantics.md §5.8).

pub mod bbolt;
mod fake;
mod file;
mod import;
mod journal;
mod lately;
mod overlay;
mod stores;
mod tables;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crosspoint_kernel::{
    BoxFuture,
    state::{FakeStore, SavedRuleSet, State},
};

pub use self::stores::Stores;
use self::{
    file::File,
    overlay::{Key, Urgency, Value},
};

/// The file's name where the configuration gives none.
pub const DEFAULT_PATH: &str = "cache.db";

/// How long a rejected answer is remembered where the configuration does not say.
pub const REJECTED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keeps several configurations apart in one file.
    pub cache_id: String,
    /// Fake addresses are kept.
    pub fakeip: bool,
    /// Rejected answers are kept, for so long.
    pub rejected: Option<Duration>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has it open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// The system said no.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The database said no.
    #[error("open {path}: {message}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// State in a file. Cheap to clone; the file is closed when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Store {
    file: Arc<File>,
    id: Arc<str>,
    options: Arc<Options>,
}

impl Store {
    /// Opens the file, or makes it. Blocks: up to 10 s while another process has it open.
    ///
    /// # Errors
    /// [`StoreError::Locked`] after that time, or what the system says. What the file contains is no reason to fail.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        Ok(Self::over(Arc::new(File::open(path)?), options))
    }

    fn over(file: Arc<File>, options: Options) -> Self {
        Self { file, id: options.cache_id.as_str().into(), options: Arc::new(options) }
    }

    /// Waits until all that was written is in the file, or could not be written (which is logged).
    pub fn sync(&self) {
        let _ = self.file.flushed().blocking_recv();
    }

    fn put(&self, key: Key, value: Value, urgency: Urgency) {
        self.file.put([(key, Some(value))], urgency);
    }

    fn text(&self, key: &Key) -> Option<String> {
        match self.file.get(key)? {
            Value::Text(text) => Some(text.into()),
            _ => None,
        }
    }
}

impl State for Store {
    fn selected(&self, group: &str) -> Option<String> {
        self.text(&Key::Selected(self.id.clone(), group.into())).filter(|member| !member.is_empty())
    }

    fn select(&self, group: &str, member: &str) {
        let key = Key::Selected(self.id.clone(), group.into());
        self.put(key, Value::Text(member.into()), Urgency::Now);
    }

    fn choices(&self) -> Vec<(String, String)> {
        self.file.choices(&self.id)
    }

    fn expanded(&self, group: &str) -> Option<bool> {
        match self.file.get(&Key::Expanded(self.id.clone(), group.into()))? {
            Value::Flag(expanded) => Some(expanded),
            _ => None,
        }
    }

    fn set_expanded(&self, group: &str, expanded: bool) {
        let key = Key::Expanded(self.id.clone(), group.into());
        self.put(key, Value::Flag(expanded), Urgency::Soon);
    }

    fn clash_mode(&self) -> Option<String> {
        self.text(&Key::Mode(self.id.clone())).filter(|mode| !mode.is_empty())
    }

    fn set_clash_mode(&self, mode: &str) {
        self.put(Key::Mode(self.id.clone()), Value::Text(mode.into()), Urgency::Now);
    }

    fn rule_set(&self, tag: &str) -> Option<SavedRuleSet> {
        match self.file.get(&Key::RuleSet(self.id.clone(), tag.into()))? {
            Value::RuleSet(set) => Some(set),
            _ => None,
        }
    }

    fn save_rule_set(&self, tag: &str, set: SavedRuleSet) {
        let key = Key::RuleSet(self.id.clone(), tag.into());
        self.put(key, Value::RuleSet(set), Urgency::Soon);
    }

    fn keeps_rejected(&self) -> bool {
        self.options.rejected.is_some()
    }

    fn rejected(&self, server: &str, name: &str, qtype: u16) -> bool {
        if self.options.rejected.is_none() {
            return false;
        }
        let until = self.file.rejected.get((&self.id, server, qtype, name), || {
            let key = Key::Rejected(self.id.clone(), server.into(), qtype, plain(name));
            match self.file.get(&key) {
                Some(Value::Until(until)) => until,
                _ => 0,
            }
        });
        until > unix(SystemTime::now())
    }

    fn reject(&self, server: &str, name: &str, qtype: u16) {
        let Some(keep) = self.options.rejected else { return };
        let key = Key::Rejected(self.id.clone(), server.into(), qtype, plain(name));
        let until = unix(SystemTime::now()).saturating_add(keep.as_secs());
        self.file.rejected.put((&self.id, server, qtype, name), until);
        self.put(key, Value::Until(until), Urgency::Soon);
    }

    fn fake(&self) -> Option<&dyn FakeStore> {
        self.options.fakeip.then_some(&*self.file as &dyn FakeStore)
    }

    fn flush(&self) -> BoxFuture<'static, ()> {
        let done = self.file.flushed();
        Box::pin(async move {
            let _ = done.await;
        })
    }
}

/// A domain name as it is kept: in lower case, without the dot of the root.
pub(crate) fn plain(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

/// Whole seconds since 1970.
fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
