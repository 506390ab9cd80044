//! Where the daemon's configuration comes from, at start and at each reload.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crosspoint_api::{Control, WatchSpec};
use crosspoint_kernel::supervise::{Blueprint, Handle, LoadError, Loader, Planned};
use crosspoint_layers::fetch::HttpClient;
use crosspoint_network::MonitorSpec;
use crosspoint_rules::live::Library;
use crosspoint_schema::{ConfigError, Stage};

use super::Options;
use crate::{
    Fatal,
    assemble::{self, Failure, Input},
    commands, logging,
};

/// The configuration that is used when there is no other.
const DEFAULT_FILE: &str = "config.json";

/// The files to read, or the built-in configuration.
#[derive(Debug)]
pub(super) struct Source {
    input: Input,
    watch: bool,
}

impl Source {
    pub(super) fn new(options: &Options) -> Result<Self, Fatal> {
        let named =
            !options.global.config.is_empty() || !options.global.config_directory.is_empty();
        let mut input = commands::input(options.global.clone())?;
        input.embedded = options.bare && !named && !Path::new(DEFAULT_FILE).exists();
        input.strict = options.strict;
        input.library = Library::new(Arc::new(|plane| Arc::new(HttpClient::on(plane.clone()))));
        Ok(Self { input, watch: options.watch })
    }

    /// Whether the built-in configuration is used.
    pub(super) fn is_embedded(&self) -> bool {
        self.input.embedded
    }

    /// What the kernel calls for a configuration.
    pub(super) fn loader(
        self,
        control: Option<Arc<Control>>,
        handle: Arc<OnceLock<Handle>>,
    ) -> Loader {
        let started = AtomicBool::new(false);
        Arc::new(move || {
            let first = !started.swap(true, Ordering::Relaxed);
            let mut blueprint = self.blueprint(control.as_ref(), &handle, first);
            if let (true, Ok(blueprint)) = (first, &mut blueprint) {
                // Components log while they are built: at start the log must be right before that.
                std::mem::replace(&mut blueprint.on_commit, Box::new(|| ()))();
            }
            blueprint.map_err(|failure| {
                let text = failure.to_string();
                LoadError(if first && is_creation(&failure) {
                    format!("create service: {text}")
                } else {
                    text
                })
            })
        })
    }

    fn blueprint(
        &self,
        control: Option<&Arc<Control>>,
        handle: &Arc<OnceLock<Handle>>,
        first: bool,
    ) -> Result<Blueprint, Failure> {
        let mut input = self.input.clone();
        // Later, a configuration that is not all right is refused: there is one in force.
        input.lenient = first;
        // A file that has appeared since is what the user was told to write.
        input.embedded &= !Path::new(DEFAULT_FILE).exists();
        let extra = control.map(|control| control.planned()).into_iter().collect();
        let mut blueprint = assemble::blueprint(&input, extra)?;
        let option = |section: &str, key: &str| blueprint.shared.get(section)?.get(key).cloned();
        if let Some(output) = option("log", "output") {
            // Found here, while nothing has changed yet; opened again at commit.
            logging::open(output.as_str().unwrap_or_default()).map_err(ConfigError::start)?;
        }
        let needed = option("route", "auto_detect_interface") == Some(true.into());
        blueprint.components.push(MonitorSpec { needed }.planned());
        if self.watch || option("crosspoint", "watch") == Some(true.into()) {
            blueprint.components.push(self.watcher(handle));
        }
        Ok(blueprint)
    }

    fn watcher(&self, handle: &Arc<OnceLock<Handle>>) -> Planned {
        let files = self.input.files.iter().filter(|file| *file != "stdin");
        WatchSpec {
            files: files.map(PathBuf::from).collect(),
            directories: self.input.directories.iter().map(PathBuf::from).collect(),
            handle: handle.clone(),
        }
        .planned()
    }
}

/// Whether the reference would have found it in making the service, and says so.
fn is_creation(failure: &Failure) -> bool {
    match failure {
        Failure::Config(error) => matches!(error.stage, Stage::Initialize(_) | Stage::Create(_)),
        Failure::Load(_) | Failure::Deprecated(_) => false,
    }
}
