//! A child process with a directory of its own, a log, a readiness check and a certain end.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;

/// A socket that must exist before a program counts as started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ready {
    /// A TCP socket that listens on the port, on any address.
    Tcp(u16),
    /// A bound UDP socket, on any address.
    Udp(u16),
}

/// What to start and how to know that it is ready.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    ready: Vec<Ready>,
    timeout: Duration,
    netns: Option<String>,
    dir: tempfile::TempDir,
}

impl Launch {
    /// A program that will run in a fresh temporary directory, which is also its `HOME` and its
    /// `XDG_RUNTIME_DIR`, with the proxy variables of the environment removed.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("cp-").tempdir().context("temporary directory")?;
        Ok(Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            ready: Vec::new(),
            timeout: Duration::from_secs(15),
            netns: None,
            dir,
        })
    }

    /// The directory the program will run in; put its files there before [`Launch::start`].
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds arguments.
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Adds sockets to wait for.
    pub fn ready(mut self, sockets: impl IntoIterator<Item = Ready>) -> Self {
        self.ready.extend(sockets);
        self
    }

    /// How long to wait for readiness; 15 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the program inside a network namespace.
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.name().to_owned());
        self
    }

    /// Starts the program without waiting for anything.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn spawn(self) -> Result<Running> {
        let mut command = match &self.netns {
            // `ip netns exec` replaces itself with the program, so the pid is the program's.
            Some(netns) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", netns]).arg(&self.program);
                ip
            }
            None => Command::new(&self.program),
        };
        let log = self.dir.path().join("stderr.log");
        let file = fs::File::create(&log).context("create the log file")?;
        for key in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "CROSSPOINT_CONTROL"] {
            command.env_remove(key).env_remove(key.to_uppercase());
        }
        command
            .args(&self.args)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log file")?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("start {} ({})", self.name, self.program.display()))?;
        Ok(Running {
            name: self.name,
            program: self.program,
            child,
            exited: None,
            log,
            ready: self.ready,
            dir: self.dir,
        })
    }

    /// Starts the program and waits for its sockets.
    ///
    /// # Errors
    /// When it cannot be executed, exits before it is ready, or is not ready in time; the text
    /// holds the end of its log.
    pub async fn start(self) -> Result<Running> {
        let timeout = self.timeout;
        let mut running = self.spawn()?;
        running.wait_ready(timeout).await?;
        Ok(running)
    }
}

/// A started program. Dropping it ends the process: SIGTERM, and SIGKILL two seconds later.
#[derive(Debug)]
pub struct Running {
    name: String,
    program: PathBuf,
    child: Child,
    exited: Option<ExitStatus>,
    log: PathBuf,
    ready: Vec<Ready>,
    dir: tempfile::TempDir,
}

impl Running {
    /// The name given at launch.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The executable.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory the program runs in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything the program has written to standard output and standard error.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The last lines of [`Running::log`], for error texts.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits until every socket of the launch exists.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_exit() {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            let open = open_ports(self.pid());
            let missing: Vec<_> = self.ready.iter().filter(|r| !open.contains(r)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{}: no {missing:?} in {timeout:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until `probe` is true of the log.
    ///
    /// # Errors
    /// When that does not happen in time, or the program ends.
    pub async fn wait_log(&mut self, probe: impl Fn(&str) -> bool, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !probe(&self.log()) {
            if Instant::now() > end {
                bail!("{}: the log never said it in {limit:?}:\n{}", self.name, self.log_tail());
            }
            if let Some(status) = self.try_exit() {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The exit status, if the program has ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().ok().flatten();
        }
        self.exited
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_exit() {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} still runs after {limit:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_exit() {
            bail!("{} has already ended with {status}:\n{}", self.name, self.log_tail());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// Asks the program to end with SIGTERM and waits up to 12 s for it (the reference gives
    /// itself ten).
    ///
    /// # Errors
    /// When it does not end; the process is killed when `self` is dropped.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.try_exit() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait_exit(Duration::from_secs(12)).await
    }

    /// Resident memory in bytes, exact (`smaps_rollup`), `VmRSS` where that cannot be read.
    pub fn rss(&self) -> u64 {
        rss(self.pid())
    }

    /// The number of open descriptors.
    pub fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// What the open descriptors are (a path, `socket`, `anon_inode:[eventpoll]`), sorted, without the numbers that
    /// tell one of a kind from another.
    pub fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten();
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let mut all: Vec<_> = links
            .map(|link| {
                let link = link.to_string_lossy();
                link.split_once(":[")
                    .filter(|(kind, _)| *kind != "anon_inode")
                    .map_or_else(|| link.clone().into_owned(), |(kind, _)| kind.to_owned())
            })
            .collect();
        all.sort();
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.try_exit().is_some() {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_secs(2);
        while self.try_exit().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, in words that do not depend on the platform's `Display`.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

/// Resident memory of a process in bytes; 0 when it is gone.
pub fn rss(pid: u32) -> u64 {
    let field = |file: &str, key: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    };
    field("smaps_rollup", "Rss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0)
}

/// The sockets a process may have opened: all of its network namespace. Read from `/proc`, so
/// that looking does not cost the program a connection.
fn open_ports(pid: u32) -> BTreeSet<Ready> {
    let mut open = BTreeSet::new();
    for (table, make, state) in [
        ("tcp", Ready::Tcp as fn(u16) -> Ready, Some("0A")),
        ("tcp6", Ready::Tcp, Some("0A")),
        ("udp", Ready::Udp, None),
        ("udp6", Ready::Udp, None),
    ] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (local, _remote, st) = (fields.next(), fields.next(), fields.next());
            if state.is_some() && st != state {
                continue;
            }
            let port = local.and_then(|l| u16::from_str_radix(l.rsplit(':').next()?, 16).ok());
            open.extend(port.map(make));
        }
    }
    open
}
