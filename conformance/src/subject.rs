//! Which program is under test, and how to start it with a configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::peers::Peer;
use crate::process::{Launch, Ready, Running};
use crate::workspace;

/// Names the program that [`Subject::under_test`] returns: `reference`, `crosspoint` or a path.
pub const SUBJECT_ENV: &str = "CONFORMANCE_SUBJECT";

/// What [`Subject::under_test`] is when nothing is said.
const DEFAULT: &str = "crosspoint";

/// A program that takes the dialect: the daemon itself or the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon of this repository; with a path, that binary.
    Crosspoint(Option<PathBuf>),
    /// The pinned reference.
    Reference,
}

impl Subject {
    /// The program the suite is about.
    pub fn under_test() -> Self {
        let said = std::env::var(SUBJECT_ENV).unwrap_or_else(|_| DEFAULT.to_owned());
        match said.as_str() {
            "reference" => Subject::Reference,
            "crosspoint" => Subject::Crosspoint(None),
            path => Subject::Crosspoint(Some(PathBuf::from(path))),
        }
    }

    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Subject::Crosspoint(_) => "crosspoint",
            Subject::Reference => "reference",
        }
    }

    /// Whether this is the reference, which has no deviations from itself.
    pub fn is_reference(&self) -> bool {
        *self == Subject::Reference
    }

    /// The executable: built or fetched on first use, so the call may block for long.
    ///
    /// # Errors
    /// When it can neither be found nor made.
    pub fn binary(&self) -> Result<PathBuf> {
        match self {
            Subject::Reference => Peer::SingBox.path(),
            Subject::Crosspoint(Some(path)) if path.is_file() => Ok(path.clone()),
            Subject::Crosspoint(Some(path)) => bail!("{} is not a file", path.display()),
            Subject::Crosspoint(None) => built(),
        }
    }

    /// Prepares `run -c config.json` in a fresh directory: waits for every port that the
    /// configuration listens on.
    ///
    /// # Errors
    /// When there is no binary or no directory.
    pub fn launch(&self, config: &Value) -> Result<Launch> {
        let launch = Launch::new(self.name(), self.binary()?)?;
        write_config(launch.dir(), config)?;
        Ok(launch
            .args(["run", "-c", "config.json", "--disable-color"])
            .ready(listening_ports(config)))
    }

    /// Starts the program with a configuration and waits for its ports.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn start(&self, config: &Value) -> Result<Running> {
        self.launch(config)?.start().await
    }

    /// Runs the program to its end in `dir` with the given arguments.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn run_cli<S: Into<OsString>>(
        &self,
        dir: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(String, String)],
    ) -> Result<Output> {
        let binary = self.binary()?;
        Command::new(&binary)
            .args(args.into_iter().map(Into::into))
            .current_dir(dir)
            .env("HOME", dir)
            .env("XDG_RUNTIME_DIR", dir)
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", binary.display()))
    }
}

/// Writes `config.json` into the directory of a program.
///
/// # Errors
/// When the file cannot be written.
pub fn write_config(dir: &Path, config: &Value) -> Result<()> {
    let text = serde_json::to_vec_pretty(config)?;
    // Renamed into place, so that a program that watches the file never reads half of it.
    let part = dir.join("config.json.part");
    std::fs::write(&part, text).context("write the configuration")?;
    std::fs::rename(&part, dir.join("config.json")).context("write the configuration")
}

impl Running {
    /// Writes a new configuration and sends SIGHUP; does not wait for the outcome.
    ///
    /// # Errors
    /// When the file cannot be written or the process is gone.
    pub fn reload(&mut self, config: &Value) -> Result<()> {
        write_config(self.dir(), config)?;
        self.signal(Signal::HUP)
    }

    /// Runs `crosspoint ctl ARGS --json` against this daemon and parses what it prints. The
    /// control socket is the default one, `$XDG_RUNTIME_DIR/crosspoint.sock`, which lies in the
    /// daemon's directory.
    ///
    /// # Errors
    /// When the command fails (its standard error is in the text) or prints something else
    /// than JSON.
    pub fn ctl(&self, args: &[&str]) -> Result<Value> {
        let output = self.ctl_raw(args)?;
        if !output.status.success() {
            bail!(
                "ctl {}: {}: {}{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("ctl {} printed no JSON", args.join(" ")))
    }

    /// As [`Running::ctl`], but hands back whatever came out; for commands that are to fail.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub fn ctl_raw(&self, args: &[&str]) -> Result<Output> {
        Command::new(self.program())
            .arg("ctl")
            .args(args)
            .arg("--json")
            .current_dir(self.dir())
            .env("XDG_RUNTIME_DIR", self.dir())
            .env_remove("CROSSPOINT_CONTROL")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {} ctl", self.program().display()))
    }
}

/// The daemon, built once by cargo in the profile of the tests. `CROSSPOINT_BIN` names a ready
/// one instead.
fn built() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        if let Some(path) = std::env::var_os("CROSSPOINT_BIN") {
            return Ok(PathBuf::from(path));
        }
        let release = !cfg!(debug_assertions);
        let target = workspace::target_dir();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "-p", "crosspoint", "--bin", "crosspoint"])
            .args(release.then_some("--release"))
            .arg("--target-dir")
            .arg(&target)
            .current_dir(workspace::root());
        let output = cargo.output().context("start cargo to build the daemon")?;
        if !output.status.success() {
            bail!("cargo build: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let path = target.join(if release { "release" } else { "debug" }).join("crosspoint");
        if !path.is_file() {
            bail!("cargo built no {}", path.display());
        }
        Ok(path)
    };
    BUILT
        .get_or_init(|| build().map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(|text| anyhow!("the daemon is not there: {text}"))
}

/// The sockets that a configuration opens at start.
pub fn listening_ports(config: &Value) -> Vec<Ready> {
    let mut ready = Vec::new();
    for kind in ["inbounds", "services"] {
        for inbound in config[kind].as_array().into_iter().flatten() {
            let Some(port) = inbound["listen_port"].as_u64().and_then(|p| u16::try_from(p).ok())
            else {
                continue;
            };
            if port == 0 {
                continue;
            }
            let quic = matches!(inbound["type"].as_str(), Some("hysteria" | "hysteria2" | "tuic"));
            let udp_only = quic || inbound["network"] == "udp";
            ready.push(if udp_only { Ready::Udp(port) } else { Ready::Tcp(port) });
        }
    }
    let controller = &config["experimental"]["clash_api"]["external_controller"];
    let port = controller.as_str().and_then(|addr| addr.rsplit(':').next()?.parse().ok());
    ready.extend(port.map(Ready::Tcp));
    ready
}
