//! A daemon under test and its control socket.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{
    netns::Netns,
    process::{Launch, Running},
    subject::{Subject, write_config},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixDatagram, UnixStream},
};

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) running: Running,
    control: PathBuf,
}

/// `ctl status --json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) generation: u64,
    /// Listening sockets that the vault holds.
    pub(crate) sockets: usize,
    pub(crate) components: Vec<Component>,
}

/// One row of it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Component {
    pub(crate) kind: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) tag: String,
    pub(crate) state: String,
    pub(crate) epoch: u64,
    pub(crate) restarts: u64,
    pub(crate) last_error: Option<String>,
}

impl Status {
    /// The instance in force of one component.
    pub(crate) fn component(&self, kind: &str, tag: &str) -> Result<Component> {
        self.components
            .iter()
            .find(|c| c.kind == kind && c.tag == tag && c.state != "draining")
            .cloned()
            .with_context(|| format!("{kind}/{tag} is missing in {self:?}"))
    }
}

/// The daemon that fails on order.
pub(crate) fn faulty() -> Subject {
    Subject::Crosspoint(Some(env!("CARGO_BIN_EXE_crosspoint-faulty").into()))
}

impl Daemon {
    /// Starts it and waits until its inbounds listen.
    pub(crate) async fn start(config: &Value) -> Result<Self> {
        Self::launched(faulty().launch(config)?).await
    }

    /// The same in a network namespace.
    pub(crate) async fn start_within(config: &Value, netns: &Netns) -> Result<Self> {
        Self::launched(faulty().launch(config)?.netns(netns)).await
    }

    async fn launched(launch: Launch) -> Result<Self> {
        let control = launch.dir().join("control.sock");
        let running = launch.env("CROSSPOINT_CONTROL", control.as_os_str()).start().await?;
        let daemon = Self { running, control };
        daemon.answers().await?;
        Ok(daemon)
    }

    /// Starts it without waiting for ports: some of them may not come.
    pub(crate) async fn start_degraded(config: &Value) -> Result<Self> {
        let launch = faulty().launch(config)?.ready([]);
        let control = launch.dir().join("control.sock");
        let running = launch.env("CROSSPOINT_CONTROL", control.as_os_str()).spawn()?;
        let daemon = Self { running, control };
        daemon.answers().await?;
        Ok(daemon)
    }

    /// Waits until the control socket answers.
    async fn answers(&self) -> Result<()> {
        until("the control socket answers", Duration::from_secs(10), async || {
            self.status().await.is_ok()
        })
        .await
        .with_context(|| self.running.log_tail())?;
        Ok(())
    }

    /// The working directory.
    pub(crate) fn dir(&self) -> &Path {
        self.running.dir()
    }

    /// One request, one response.
    pub(crate) async fn call(&self, request: Value) -> Result<Value> {
        let mut stream = BufReader::new(UnixStream::connect(&self.control).await?);
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_line(&mut line));
        ensure!(read.await.context("no response in 20 s")?? > 0, "the control socket closed");
        Ok(serde_json::from_str(&line)?)
    }

    /// Where everything stands.
    pub(crate) async fn status(&self) -> Result<Status> {
        let response = self.call(json!({"v": 1, "method": "status"})).await?;
        Ok(serde_json::from_value(response["result"].clone())?)
    }

    /// The open descriptors once nothing drains, no listening socket is held, and for a second nothing comes or goes:
    /// a moment after a reload an old instance or our own last request may still hold some.
    pub(crate) async fn idle_descriptors(&self) -> Result<Vec<String>> {
        let idle = async || {
            self.status().await.is_ok_and(|status| {
                status.sockets == 0 && status.components.iter().all(|row| row.state != "draining")
            })
        };
        until("old instances and their sockets are gone", Duration::from_secs(30), idle).await?;
        let (mut seen, mut same) = (self.running.descriptors(), 0);
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.running.descriptors();
            same = if now == seen { same + 1 } else { 0 };
            seen = now;
            if same == 20 {
                return Ok(seen);
            }
        }
        bail!("descriptors come and go: {seen:#?}")
    }

    /// Writes the configuration and reloads it. Returns the response, whatever it says.
    pub(crate) async fn reload(&self, config: &Value) -> Result<Value> {
        write_config(self.dir(), config)?;
        self.call(json!({"v": 1, "method": "reload"})).await
    }

    /// Reloads, and fails unless the configuration was put in force.
    pub(crate) async fn reload_ok(&self, config: &Value) -> Result<Value> {
        let response = self.reload(config).await?;
        ensure!(response["ok"] == true, "reload refused: {response}");
        Ok(response)
    }

    /// Gives an order to a component of type `fault`.
    pub(crate) async fn order(&self, trigger: &str, order: &str) -> Result<()> {
        let socket = UnixDatagram::unbound()?;
        let path = self.dir().join(trigger);
        let sent = tokio::time::timeout(Duration::from_secs(5), async {
            // The socket is away for the moment in which the component restarts.
            while socket.send_to(order.as_bytes(), &path).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        sent.await.with_context(|| format!("nobody takes orders at {trigger}"))
    }
}

/// Waits until `done` says so.
pub(crate) async fn until(
    what: &str,
    limit: Duration,
    mut done: impl AsyncFnMut() -> bool,
) -> Result<Duration> {
    let started = Instant::now();
    while !done().await {
        if started.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(started.elapsed())
}
