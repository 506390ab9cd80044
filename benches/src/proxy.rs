//! A program under measurement.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crosspoint_conformance::process::{Launch, Running};
use crosspoint_conformance::subject::write_config;
use rustix::process::Signal;
use serde_json::Value;

use crate::cpu::Snapshot;
use crate::host::{self, PROXY_CORE};
use crate::scenario::{BACK, PORT};
use crate::socks::Via;

/// Which program, and how it is placed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Bound to [`PROXY_CORE`]; else it may use every core.
    pub(crate) pinned: bool,
}

/// A started program that listens; or two of them, whose CPU, memory and descriptors count together.
pub(crate) struct Proxy {
    running: Running,
    /// The other end of the protocol.
    back: Option<Running>,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// The address that stands for loopback behind it, if it is another one.
    pub(crate) host: Option<Ipv4Addr>,
    /// How long it took to listen.
    pub(crate) started_in: Duration,
    /// Seconds of CPU until it listened.
    pub(crate) start_cpu: f64,
}

impl Program {
    /// Starts the program with a configuration that listens on [`PORT`], and waits until it does.
    pub(crate) fn start(&self, config: &Value) -> Result<Proxy> {
        self.start_with(None, config)
    }

    /// The same, with another one behind it, which listens on [`BACK`] and is started first.
    pub(crate) fn start_with(&self, back: Option<&Value>, config: &Value) -> Result<Proxy> {
        let back = back.map(|config| self.launch(config, BACK)).transpose()?;
        let (running, addr, started_in) = self.launch(config, PORT)?;
        let start_cpu = Snapshot::of(running.pid()).total();
        Ok(Proxy {
            running,
            back: back.map(|(back, ..)| back),
            addr,
            host: None,
            started_in,
            start_cpu,
        })
    }

    fn launch(&self, config: &Value, port: u16) -> Result<(Running, SocketAddr, Duration)> {
        let launch = Launch::new(&self.name, &self.path)?;
        write_config(launch.dir(), config)?;
        let launch = launch.args(["run", "-c", "config.json", "--disable-color"]);
        let begun = Instant::now();
        let mut running = self.placed(|| launch.spawn())??;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = running.try_exit() {
                bail!("{} ended with {status}:\n{}", self.name, running.log_tail());
            }
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("{} does not listen on {addr}:\n{}", self.name, running.log_tail());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok((running, addr, begun.elapsed()))
    }

    /// Wall-clock seconds of `check`.
    pub(crate) fn check(&self, config: &Value) -> Result<f64> {
        let launch = Launch::new(&self.name, &self.path)?;
        write_config(launch.dir(), config)?;
        let launch = launch.args(["check", "-c", "config.json", "--disable-color"]);
        let begun = Instant::now();
        let mut running = self.placed(|| launch.spawn())??;
        let status = loop {
            if let Some(status) = running.try_exit() {
                break status;
            }
            std::thread::sleep(Duration::from_micros(100));
        };
        if !status.success() {
            bail!("{} check: {status}:\n{}", self.name, running.log_tail());
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Runs `spawn` on a thread that is bound like the program is to be: a child inherits it.
    fn placed<T: Send>(&self, spawn: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| {
                if self.pinned {
                    host::pin(PROXY_CORE)?;
                } else {
                    host::unpin()?;
                }
                anyhow::Ok(spawn())
            });
            match starter.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Proxy {
    fn all(&self) -> impl Iterator<Item = &Running> {
        std::iter::once(&self.running).chain(&self.back)
    }

    /// The way to the origins of a load.
    pub(crate) fn via(&self) -> Via {
        Via { proxy: self.addr, host: self.host }
    }

    /// Whether two programs run on one core.
    pub(crate) fn is_shared(&self) -> bool {
        self.back.is_some()
    }

    pub(crate) fn cpu(&self) -> Snapshot {
        Snapshot::of_all(self.all().map(Running::pid))
    }

    pub(crate) fn rss(&self) -> f64 {
        self.all().map(|running| running.rss() as f64).sum()
    }

    pub(crate) fn fds(&self) -> f64 {
        self.all().map(|running| running.fds() as f64).sum()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Writes another configuration and sends SIGHUP.
    pub(crate) fn reload(&mut self, config: &Value) -> Result<()> {
        write_config(self.running.dir(), config)?;
        self.running.signal(Signal::HUP)
    }

    pub(crate) fn log_lines(&self) -> usize {
        self.running.log().lines().count()
    }

    /// Fails if a program has ended in the meantime.
    pub(crate) fn alive(&mut self) -> Result<()> {
        for running in std::iter::once(&mut self.running).chain(&mut self.back) {
            if let Some(status) = running.try_exit() {
                bail!("ended with {status}:\n{}", running.log_tail());
            }
        }
        Ok(())
    }

    pub(crate) fn context<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let logs = self.all().map(|one| format!("{}:\n{}", one.name(), one.log_tail()));
            logs.collect::<Vec<_>>().join("\n")
        })
    }
}
