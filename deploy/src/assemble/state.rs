//! `experimental.cache_file`: the state that outlives the process.

use std::{path::PathBuf, sync::Arc};

use crosspoint_kernel::{
    BuildError,
    state::{OpenState, State},
};
use crosspoint_schema::Config;
use crosspoint_store::{DEFAULT_PATH, Options, REJECTED_FOR, Stores};

/// How to open the file, if there is to be one.
pub(super) fn open(config: &Config, stores: &Arc<Stores>) -> Option<OpenState> {
    let options = config.experimental.as_ref()?.cache_file.as_ref().filter(|file| file.enabled)?;
    let path = match options.path.as_str() {
        "" => PathBuf::from(DEFAULT_PATH),
        path => PathBuf::from(path),
    };
    let keep = Options {
        cache_id: options.cache_id.clone(),
        fakeip: options.store_fakeip,
        rejected: options.store_rdrc.then(|| options.rdrc_timeout.or(REJECTED_FOR)),
    };
    let stores = stores.clone();
    Some(Box::new(move || {
        let store = stores
            .open(&path, keep)
            .map_err(|error| BuildError::options(format_args!("initialize cache-file: {error}")))?;
        Ok(store as Arc<dyn State>)
    }))
}
