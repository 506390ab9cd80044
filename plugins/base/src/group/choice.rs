//! Which member a selector was told to use: kept beside the instances, so that a restart does not forget it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

/// Remembers choices. The cache file installs one that survives the process.
pub trait ChoiceCache: Send + Sync {
    /// The member that the group `tag` was told to use.
    fn load(&self, tag: &str) -> Option<String>;
    /// Remembers a choice.
    fn store(&self, tag: &str, choice: &str);
}

#[derive(Default)]
struct Memory(Mutex<HashMap<String, String>>);

impl ChoiceCache for Memory {
    fn load(&self, tag: &str) -> Option<String> {
        self.0.lock().get(tag).cloned()
    }

    fn store(&self, tag: &str, choice: &str) {
        self.0.lock().insert(tag.to_owned(), choice.to_owned());
    }
}

fn cache() -> &'static RwLock<Arc<dyn ChoiceCache>> {
    static CACHE: OnceLock<RwLock<Arc<dyn ChoiceCache>>> = OnceLock::new();
    CACHE.get_or_init(|| RwLock::new(Arc::new(Memory::default())))
}

/// The cache in force; the memory of this process unless another one was set.
pub fn choices() -> Arc<dyn ChoiceCache> {
    cache().read().clone()
}

/// Sets another cache.
pub fn set_choice_cache(next: Arc<dyn ChoiceCache>) {
    *cache().write() = next;
}
