//! Which file is open in this process: a reload with the same path goes on with it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::{
    Options, Store, StoreError,
    file::{File, identity},
};

/// Opens files, each once.
#[derive(Debug, Default)]
pub struct Stores(Mutex<Vec<Open>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: Weak<File>,
    /// The store that was asked for last.
    store: Weak<Store>,
}

impl Stores {
    /// The store at `path`: the one that this process has already, or another one over the same open file if the
    /// options differ. A file that somebody has replaced is opened anew.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open(&self, path: &Path, options: Options) -> Result<Arc<Store>, StoreError> {
        let mut known = self.0.lock();
        known.retain(|open| open.file.strong_count() > 0);
        let path =
            std::path::absolute(path).map_err(|error| StoreError::io("find", path, error))?;
        for open in known.iter_mut().filter(|open| open.path == path) {
            let Some(file) = open.file.upgrade() else { continue };
            if identity(&path) != Some(file.identity) {
                continue;
            }
            if let Some(store) = open.store.upgrade().filter(|store| *store.options == options) {
                return Ok(store);
            }
            let store = Arc::new(Store::over(file, options));
            open.store = Arc::downgrade(&store);
            return Ok(store);
        }
        let store = Arc::new(Store::open(&path, options)?);
        let file = Arc::downgrade(&store.file);
        known.push(Open { path, file, store: Arc::downgrade(&store) });
        Ok(store)
    }
}
