//! A DERP server under measurement.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crosspoint_conformance::peers::full_reference;
use crosspoint_conformance::process::{Launch, Running};
use crosspoint_conformance::subject::write_config;

use super::crowd::Door;
use crate::cpu::Snapshot;
use crate::host;

/// Which program.
pub(super) struct Program {
    pub(super) name: String,
    /// The reference if there is none.
    path: Option<std::path::PathBuf>,
    core: Option<usize>,
}

/// A started one.
pub(super) struct Server(Running);

impl Program {
    pub(super) fn reference(pinned: bool) -> Self {
        Self { name: "reference".to_owned(), path: None, core: super::core(pinned) }
    }

    pub(super) fn subject(path: &Path, pinned: bool) -> Self {
        Self { name: "subject".to_owned(), path: Some(path.to_owned()), core: super::core(pinned) }
    }

    /// Starts it and waits until it listens.
    pub(super) fn start(&self, door: &Door) -> Result<Server> {
        let config = door.config();
        let launch = match &self.path {
            None => full_reference(&config)?.ready([]),
            Some(path) => {
                let launch = Launch::new(&self.name, path)?;
                write_config(launch.dir(), &config)?;
                launch.args(["run", "-c", "config.json", "--disable-color"])
            }
        };
        let core = self.core;
        // A child inherits where its starter may run.
        let started = std::thread::spawn(move || {
            match core {
                Some(core) => host::pin(core)?,
                None => host::unpin()?,
            }
            launch.spawn()
        });
        let Ok(running) = started.join() else { bail!("the starter panicked") };
        let (mut running, begun) = (running?, Instant::now());
        while TcpStream::connect(door.addr()).is_err() {
            if let Some(status) = running.try_exit() {
                bail!("ended with {status}:\n{}", running.log_tail());
            }
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("does not listen:\n{}", running.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Server(running))
    }
}

impl Server {
    pub(super) fn cpu(&self) -> Snapshot {
        Snapshot::of(self.0.pid())
    }

    pub(super) fn rss(&self) -> f64 {
        self.0.rss() as f64
    }

    pub(super) fn fds(&self) -> f64 {
        self.0.fds() as f64
    }

    /// Fails if it has ended.
    pub(super) fn alive(&mut self) -> Result<()> {
        match self.0.try_exit() {
            Some(status) => bail!("ended with {status}:\n{}", self.0.log_tail()),
            None => Ok(()),
        }
    }
}
