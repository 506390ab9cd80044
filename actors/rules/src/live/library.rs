//! All rule-sets of the process.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crosspoint_kernel::{
    BoxFuture,
    fetch::{Fetch, FetchError, Request, Response},
    snapshot::Plane,
    supervise::Planned,
};
use crosspoint_schema::{
    Config, ConfigError,
    options::{RuleSet, RuleSetSource},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    component::SetSpec,
    file, references,
    set::{Fingerprint, First, LiveSet, Origin},
};
use crate::slot::{Compat, RuleSets};

/// How many downloads go on at once, as in the reference.
const DOWNLOADS: usize = 5;

/// Makes the HTTP client that downloads go through.
pub type Client = Arc<dyn Fn(&Arc<Plane>) -> Arc<dyn Fetch> + Send + Sync>;

/// The rule-sets in force. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    sets: Mutex<HashMap<Box<str>, Arc<LiveSet>>>,
    permits: Arc<Semaphore>,
    client: Client,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Library").field(&self.0.sets.lock().keys()).finish()
    }
}

/// The rule-sets of a configuration that is not in force yet.
#[derive(Debug)]
pub struct Draft {
    library: Library,
    sets: Vec<Arc<LiveSet>>,
    /// Places in `sets` of those that have no rules yet.
    fresh: Vec<usize>,
    options: Vec<RuleSet>,
    compat: Compat,
    /// A second set of one tag.
    duplicate: Option<ConfigError>,
}

impl Default for Library {
    /// A library that never downloads anything, for those who only look at configurations.
    fn default() -> Self {
        Self::new(Arc::new(|_| Arc::new(Offline)))
    }
}

struct Offline;

impl Fetch for Offline {
    fn fetch(&self, _: Request) -> BoxFuture<'static, Result<Response, FetchError>> {
        Box::pin(std::future::ready(Err(FetchError::Failed("nothing is downloaded here".into()))))
    }
}

impl Library {
    /// An empty library.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let permits = Arc::new(Semaphore::new(DOWNLOADS));
        Self(Arc::new(Inner { sets: Mutex::default(), permits, client }))
    }

    /// Slots for the sets that rules of a configuration refer to: those in force where the options are equal. No file
    /// is read yet. With `strict`, remote sets that no rule refers to are downloaded, too, as by the reference, whose
    /// start fails with any of them.
    #[must_use]
    pub fn plan(&self, config: &Config, strict: bool) -> Draft {
        let options = config.route.as_ref().map(|route| route.rule_set.clone()).unwrap_or_default();
        let compat = Compat::of(config);
        let wanted = references::of(config);
        let mut seen = HashSet::new();
        let mut duplicate = None;
        let (mut sets, mut fresh) = (Vec::new(), Vec::new());
        let in_force = self.0.sets.lock();
        for (index, options) in options.iter().enumerate() {
            let tag = options.tag.as_str();
            if !seen.insert(tag) {
                let message = format!("duplicate rule-set tag: {tag}");
                let error = ConfigError::initialize("router", message).in_path(place(index));
                duplicate.get_or_insert(error);
                continue;
            }
            let named = wanted.contains(tag);
            let remote = matches!(options.source, RuleSetSource::Remote(_));
            let needed = named || strict && remote;
            if !needed {
                continue;
            }
            let fingerprint = Fingerprint::of(options, compat);
            let before = in_force.get(tag).filter(|before| before.named == named);
            if let Some(same) = before.filter(|before| before.fingerprint == fingerprint) {
                sets.push(same.clone());
                continue;
            }
            let set = LiveSet::new(index, options, fingerprint, compat, named);
            if let Some(before) = before {
                set.inherit(before);
            }
            fresh.push(sets.len());
            sets.push(Arc::new(set));
        }
        drop(in_force);
        Draft { library: self.clone(), sets, fresh, options, compat, duplicate }
    }

    /// Resolves when every remote set in force has rules.
    ///
    /// # Errors
    /// The first of them whose download fails, in the reference's words.
    pub async fn settled(&self) -> Result<(), String> {
        let sets: Vec<_> =
            self.0.sets.lock().values().filter(|set| set.is_remote()).cloned().collect();
        let waits = sets.into_iter().map(|set| async move {
            let mut first = set.first.subscribe();
            let known = first.wait_for(|first| *first != First::Pending).await;
            match known.as_deref() {
                Ok(First::Failed(why)) => Err(format!(
                    "initialize rule-set[{}]: initial rule-set: {}: {why}",
                    set.index,
                    set.tag()
                )),
                _ => Ok(()),
            }
        });
        futures_util::future::try_join_all(waits).await.map(drop)
    }
}

impl Draft {
    /// The slots by tag.
    #[must_use]
    pub fn sets(&self) -> RuleSets {
        RuleSets::new(self.sets.iter().map(|set| set.slot.clone()), self.compat)
    }

    /// Whether remote sets have no rules yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.sets.iter().any(|set| set.is_remote() && set.is_empty())
    }

    /// Reads what stands in the configuration and in files. Sets that no rule refers to are read, too, and forgotten.
    /// Blocks.
    ///
    /// # Errors
    /// Two sets of one tag, or the first set that is refused. With `lenient`, files that are missing or wrong are no error: their sets match
    /// nothing until their components find them.
    pub fn load(&self, lenient: bool) -> Result<(), ConfigError> {
        for (index, options) in self.options.iter().enumerate() {
            let wanted = self.sets.iter().position(|set| set.tag() == options.tag);
            let set = match wanted {
                Some(at) if !self.fresh.contains(&at) => continue,
                Some(at) => self.sets.get(at).cloned(),
                None => None,
            };
            let set = set.unwrap_or_else(|| {
                let fingerprint = Fingerprint::of(options, self.compat);
                Arc::new(LiveSet::new(index, options, fingerprint, self.compat, false))
            });
            let result = match &set.origin {
                Origin::Inline => set.put_inline(options),
                Origin::Local { path, format } => match file::load(&set, path, *format) {
                    Err(_) if lenient => Ok(()),
                    result => result,
                },
                Origin::Remote { .. } => Ok(()),
            };
            result.map_err(|why| {
                ConfigError::initialize(format!("router: parse rule-set[{index}]"), why)
                    .in_path(place(index))
            })?;
        }
        self.duplicate.clone().map_or(Ok(()), Err)
    }

    /// A remote set, of those that rules refer to or not, whose download leads through what does not exist.
    #[must_use]
    pub fn missing_detour(&self, exists: impl Fn(&str) -> bool) -> Option<ConfigError> {
        self.options.iter().enumerate().find_map(|(index, options)| {
            let RuleSetSource::Remote(remote) = &options.source else {
                return None;
            };
            let detour = remote.download_detour.as_str();
            if detour.is_empty() || exists(detour) {
                return None;
            }
            let message =
                format!("initialize rule-set[{index}]: download detour not found: {detour}");
            Some(ConfigError::start(message).in_path(place(index)))
        })
    }

    /// The components of the sets.
    pub fn components(&self) -> impl Iterator<Item = Planned> {
        self.sets.iter().filter_map(|set| {
            let Inner { permits, client, .. } = &*self.library.0;
            SetSpec { set: set.clone(), permits: permits.clone(), client: client.clone() }.planned()
        })
    }

    /// The configuration is in force.
    pub fn commit(self) {
        let sets = self.sets.into_iter().map(|set| (set.tag().into(), set)).collect();
        *self.library.0.sets.lock() = sets;
    }
}

fn place(index: usize) -> String {
    format!("route.rule_set[{index}]")
}
