//! The file, open: who reads, who writes, and the thread that commits.

use std::{
    fmt, fs, io,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex, RwLock};
use redb::{Builder, Database, DatabaseError, StorageError, backends::FileBackend};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::{
    StoreError, bbolt, import,
    journal::{Journal, Record},
    lately::Lately,
    overlay::{Batch, Key, Overlay, Urgency, Value},
    tables, unix,
};

/// Time between two transactions that are not urgent.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time between two attempts to write when writing fails.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long to wait for another process to close the file, as the reference does.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Memory for pages of the file.
const CACHE: usize = 2 << 20;
/// Rejections that are over are removed that often.
const PURGE: Duration = Duration::from_secs(60 * 60);
/// While nothing can be written, no more than this many values are held back.
const HELD_BACK: usize = 1 << 18;

/// An open file. Its thread ends when this is dropped, after a last transaction.
pub(crate) struct File {
    shared: Arc<Shared>,
    /// Device and inode, to know the file again.
    pub(crate) identity: (u64, u64),
    /// What was found or written of rejected answers.
    pub(crate) rejected: Lately,
}

struct Shared {
    path: PathBuf,
    /// Taken away while it is opened anew after an error of the disk.
    db: RwLock<Option<Database>>,
    overlay: Mutex<Overlay>,
    work: Condvar,
    /// Fake addresses are assigned one at a time.
    assigning: Mutex<()>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("File").field(&self.shared.path).finish()
    }
}

impl File {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let db = open_or_set_aside(&path)?;
        let power_cut = guarded(|| tables::is_of_another_boot(&db)).unwrap_or_default();
        let identity = identity(&path).unwrap_or_default();
        let (journal, found) = Journal::open(&path, identity);
        let shared = Arc::new(Shared {
            path: path.clone(),
            db: RwLock::new(Some(db)),
            overlay: Mutex::new(Overlay::new(journal)),
            work: Condvar::new(),
            assigning: Mutex::new(()),
        });
        let file = Self { shared, identity, rejected: Lately::default() };
        // All of it in the first transaction, which is the one that ends the journal.
        file.replay(found);
        if power_cut {
            file.leave_gap();
        }
        let writer = file.shared.clone();
        std::thread::Builder::new()
            .name("cache-file".to_owned())
            .stack_size(if cfg!(debug_assertions) { 2 << 20 } else { 512 << 10 })
            .spawn(move || writer.run())
            .map_err(|error| StoreError::io("start the writer of", &path, error))?;
        Ok(file)
    }

    /// The newest value of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<Value> {
        let known = {
            let overlay = self.shared.overlay.lock();
            if overlay.is_empty() { None } else { overlay.find(key) }
        };
        known.unwrap_or_else(|| self.read(|db| tables::read(db, key)).flatten())
    }

    /// Writes values, all in one transaction.
    pub(crate) fn put(
        &self,
        values: impl IntoIterator<Item = (Key, Option<Value>)>,
        urgency: Urgency,
    ) {
        let mut overlay = self.shared.overlay.lock();
        // Who is awake already, and waits for its time, is left alone: waking it costs more than the rest.
        let asleep = !overlay.has_work();
        overlay.filling.puts.extend(values);
        overlay.urgent |= urgency == Urgency::Now;
        if asleep || overlay.urgent {
            self.shared.work.notify_one();
        }
    }

    /// Writes values that `record` stands for. Whether they survive a kill from now on.
    pub(crate) fn put_fake(&self, values: Vec<(Key, Option<Value>)>, record: &Record) -> bool {
        let mut overlay = self.shared.overlay.lock();
        let asleep = !overlay.has_work();
        overlay.filling.puts.extend(values);
        if asleep {
            self.shared.work.notify_one();
        }
        overlay.journal.as_mut().is_some_and(|journal| journal.append(record))
    }

    /// Removes every fake address, and then writes a value.
    pub(crate) fn forget_fake(&self, value: (Key, Option<Value>), record: Option<&Record>) {
        let mut overlay = self.shared.overlay.lock();
        overlay.filling.forget_fake();
        overlay.filling.puts.extend([value]);
        if let (Some(journal), Some(record)) = (&mut overlay.journal, record) {
            journal.append(record);
        }
        self.shared.work.notify_one();
    }

    /// Held while fake addresses are looked up and assigned.
    pub(crate) fn assigning(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.shared.assigning.lock()
    }

    pub(crate) fn choices(&self, id: &str) -> Vec<(String, String)> {
        // First what is not in the file: what is committed in between is then seen twice, not never.
        let new: Vec<_> = self.overlaid(|key, value| match (key, value) {
            (Key::Selected(owner, group), Some(Value::Text(member))) if **owner == *id => {
                Some((String::from(&**group), String::from(&**member)))
            }
            _ => None,
        });
        let mut choices = self.read(|db| tables::choices(db, id)).unwrap_or_default();
        choices.retain(|(group, _)| !new.iter().any(|(other, _)| other == group));
        choices.extend(new);
        choices
    }

    /// Every fake address with its name.
    pub(crate) fn fake_names(&self) -> Vec<(IpAddr, Box<str>)> {
        let _still = self.assigning();
        let new: Vec<_> = self.overlaid(|key, value| match (key, value) {
            (Key::FakeName(ip), value) => Some((*ip, value.clone())),
            _ => None,
        });
        let forgotten = {
            let overlay = self.shared.overlay.lock();
            overlay.filling.forget_fake || overlay.writing.forget_fake
        };
        let mut names: std::collections::BTreeMap<_, _> = match forgotten {
            true => Default::default(),
            false => self.read(tables::fake_names).unwrap_or_default().into_iter().collect(),
        };
        for (ip, value) in new {
            match value {
                Some(Value::Text(name)) => names.insert(ip, name),
                _ => names.remove(&ip),
            };
        }
        names.into_iter().collect()
    }

    /// What is not in the file yet, the newest value of each key.
    fn overlaid<T>(&self, mut pick: impl FnMut(&Key, &Option<Value>) -> Option<T>) -> Vec<T> {
        let overlay = self.shared.overlay.lock();
        let (new, old) = (&overlay.filling, &overlay.writing);
        let old = old.puts.iter().filter(|(key, _)| new.find(key).is_none());
        new.puts.iter().chain(old).filter_map(|(key, value)| pick(key, value)).collect()
    }

    /// Resolves when all that was written before is in the file.
    pub(crate) fn flushed(&self) -> oneshot::Receiver<()> {
        let receiver = self.shared.overlay.lock().wait();
        self.shared.work.notify_one();
        receiver
    }

    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Option<T> {
        self.shared.read(read)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.shared.overlay.lock().closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Option<T> {
        let db = self.db.read();
        let db = db.as_ref()?;
        match guarded(|| read(db)) {
            Ok(value) => Some(value),
            Err(why) => {
                warn!("cache-file: read {}: {why}", self.path.display());
                None
            }
        }
    }

    /// Commits until the file is dropped.
    fn run(&self) {
        let mut last: Option<Instant> = None;
        let mut purged: Option<Instant> = None;
        let mut pause = INTERVAL;
        while let Some((batch, closed)) = self.next(last.map(|last| last + pause)) {
            let purge = purged.is_none_or(|at| at.elapsed() > PURGE);
            let now = purge.then(|| unix(SystemTime::now()));
            let result = self.write(&batch, now);
            drop(batch);
            last = Some(Instant::now());
            let mut overlay = self.overlay.lock();
            overlay.end(result.is_ok());
            match result {
                Ok(()) => {
                    purged = if purge { last } else { purged };
                    pause = INTERVAL;
                }
                Err(why) => {
                    pause = (pause * 2).min(RETRY_MAX);
                    error!("cache-file: write {}: {why}; again in {pause:?}", self.path.display());
                    if overlay.writing.puts.len() > HELD_BACK {
                        warn!("cache-file: too much to hold back: forgetting it");
                        overlay.writing = Arc::default();
                    }
                    drop(overlay);
                    if closed {
                        return;
                    }
                    self.open_anew();
                }
            }
        }
        if let Some(db) = self.db.read().as_ref()
            && let Err(why) = guarded(|| tables::close(db))
        {
            warn!("cache-file: close {}: {why}", self.path.display());
        }
    }

    /// Waits for something to write: until `not_before` unless it is urgent. `None` when there is nothing left and
    /// nothing will come. Also tells whether nothing will come.
    fn next(&self, not_before: Option<Instant>) -> Option<(Arc<Batch>, bool)> {
        let mut overlay = self.overlay.lock();
        loop {
            let work = overlay.has_work() || !overlay.writing.is_empty();
            if !work && overlay.closed {
                return None;
            }
            let failed = !overlay.writing.is_empty();
            let hurry = overlay.closed || overlay.urgent && !failed;
            let due = not_before.is_none_or(|at| Instant::now() >= at);
            match not_before {
                _ if work && (hurry || due) => {
                    let closed = overlay.closed;
                    return Some((overlay.begin(), closed));
                }
                Some(at) if work => {
                    self.work.wait_until(&mut overlay, at);
                }
                _ => self.work.wait(&mut overlay),
            }
        }
    }

    fn write(&self, batch: &Batch, now: Option<u64>) -> Result<(), String> {
        let db = self.db.read();
        let Some(db) = db.as_ref() else { return Err("the file is not open".to_owned()) };
        guarded(|| tables::write(db, batch, now))
    }

    /// After an error of the disk the database refuses to go on until it is opened again.
    fn open_anew(&self) {
        let mut db = self.db.write();
        *db = None;
        match guarded(|| attempt(&self.path).map_err(Failure::into_redb)) {
            Ok(opened) => *db = Some(opened),
            Err(why) => warn!("cache-file: open {} again: {why}", self.path.display()),
        }
    }
}

/// Runs something of the database, which may panic on pages that somebody else has written to.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the file is damaged".to_owned()),
    }
}

/// The path without symbolic links, so that what is renamed is the file.
fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(_) => std::path::absolute(path).map_err(|error| StoreError::io("find", path, error)),
    }
}

/// Device and inode of a file.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Why a file could not be opened.
enum Failure {
    Locked,
    /// The contents are not ours, or not whole.
    Contents(String),
    System(io::Error),
}

impl Failure {
    fn into_redb(self) -> redb::Error {
        match self {
            Self::Locked => redb::Error::DatabaseAlreadyOpen,
            Self::Contents(why) => redb::Error::Corrupted(why),
            Self::System(error) => redb::Error::Io(error),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::Storage(StorageError::Io(error))
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::System(error)
            }
            other => Self::Contents(other.to_string()),
        }
    }
}

fn open_or_set_aside(path: &Path) -> Result<Database, StoreError> {
    let started = Instant::now();
    loop {
        match import::take_over(path) {
            Ok(()) => {}
            Err(import::Failure::Locked) if started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(import::Failure::Locked) => return Err(StoreError::Locked(path.to_owned())),
            Err(import::Failure::System(what, error)) => {
                return Err(StoreError::io(what, path, error));
            }
            Err(import::Failure::Contents(why)) => set_aside(path, &why)?,
        }
        let opened = catch_unwind(AssertUnwindSafe(|| attempt(path)));
        match opened.unwrap_or_else(|_| Err(Failure::Contents("it is damaged".to_owned()))) {
            Ok(db) => return Ok(db),
            Err(Failure::Locked) if started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(Failure::Locked) => return Err(StoreError::Locked(path.to_owned())),
            Err(Failure::System(error)) => return Err(StoreError::io("open", path, error)),
            // The next attempt makes a new one.
            Err(Failure::Contents(why)) => set_aside(path, &why)?,
        }
    }
}

fn attempt(path: &Path) -> Result<Database, Failure> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Failure::System)?;
    let meta = file.metadata().map_err(Failure::System)?;
    if meta.permissions().mode() & 0o077 != 0 {
        // Names of fake addresses tell where somebody has been.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    }
    let db = Builder::new()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)?;
    tables::check(&db).map_err(|error| Failure::Contents(error.to_string()))?;
    Ok(db)
}

/// Gives a file that cannot be used another name.
fn set_aside(path: &Path, why: &str) -> Result<(), StoreError> {
    let aside = free_name(path, "damaged");
    fs::rename(path, &aside).map_err(|error| StoreError::io("set aside", path, error))?;
    warn!(
        "cache-file: {} cannot be used ({why}): it is {} now, and a new one begins",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// `path.suffix`, or `path.suffix.1` and so on if that is taken. Nothing is overwritten but the last of a hundred.
pub(crate) fn free_name(path: &Path, suffix: &str) -> PathBuf {
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        match number {
            0 => name.push(format!(".{suffix}")),
            number => name.push(format!(".{suffix}.{number}")),
        }
        PathBuf::from(name)
    };
    (0..99).map(named).find(|name| !name.exists()).unwrap_or_else(|| named(99))
}

/// Writes a batch into a new file.
pub(crate) fn write_new(path: &Path, batch: &Batch) -> Result<(), String> {
    let attempt = guarded(|| {
        let db = attempt(path).map_err(Failure::into_redb)?;
        tables::write(&db, batch, None)
    });
    attempt.inspect(|()| info!("cache-file: imported {} values", batch.puts.len()))
}

/// Whether a file begins as one of the reference does.
pub(crate) fn is_bbolt(file: &fs::File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut head = [0; bbolt::HEAD];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(bbolt::is_bbolt(&head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
