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
pub struct Stores(Mutex<Vec<(PathBuf, Weak<File>)>>);

impl Stores {
    /// The store at `path`: the open one if this process has it open and nobody has replaced the file.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open(&self, path: &Path, options: Options) -> Result<Store, StoreError> {
        let mut known = self.0.lock();
        known.retain(|(_, file)| file.strong_count() > 0);
        let path =
            std::path::absolute(path).map_err(|error| StoreError::io("find", path, error))?;
        let open = known.iter().filter(|(other, _)| *other == path);
        let mut open = open.filter_map(|(_, file)| file.upgrade());
        if let Some(file) = open.find(|file| identity(&path) == Some(file.identity)) {
            return Ok(Store::over(file, options));
        }
        drop(open);
        let store = Store::open(&path, options)?;
        known.push((path, Arc::downgrade(&store.file)));
        Ok(store)
    }
}
