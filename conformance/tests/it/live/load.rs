//! Load that notices every broken byte: long streams, and a steady flow of new connections.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::{Target, Via, pattern::Pattern};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};

/// What the load saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Bytes echoed correctly on the long streams.
    pub(super) bytes: u64,
    /// Long streams that broke, with the reason.
    pub(super) broken: Vec<String>,
    /// New connections that worked.
    pub(super) connected: u64,
    /// New connections that failed, with the reason.
    pub(super) failed: Vec<String>,
    /// Probes of listening sockets that were refused or reset.
    pub(super) refused: Vec<String>,
    /// Longest time that a new connection took.
    pub(super) slowest: Duration,
}

/// Load under way.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    seen: Arc<Mutex<Seen>>,
    bytes: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where load goes.
#[derive(Clone)]
pub(super) struct Way {
    /// Name in reports.
    pub(super) name: &'static str,
    /// Through what.
    pub(super) via: Via,
    /// An echo server.
    pub(super) echo: Target,
}

impl Load {
    /// Opens `streams` long streams, spread over `ways`, and begins to open new connections on every
    /// one of `fresh`, and to probe `probes`. Returns when all long streams are established.
    pub(super) async fn start(
        ways: &[Way],
        streams: usize,
        fresh: &[Way],
        probes: &[SocketAddr],
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (seen, bytes) = (Arc::new(Mutex::new(Seen::default())), Arc::<AtomicU64>::default());
        let mut tasks = Vec::new();
        for number in 0..streams {
            let way = &ways[number % ways.len()];
            let stream =
                way.via.tcp(&way.echo).await.with_context(|| format!("open {}", way.name))?;
            let (name, seen, stopped, bytes) =
                (way.name, seen.clone(), stopped.clone(), bytes.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = long(stream, number as u64, stopped, &bytes).await {
                    seen.lock().unwrap().broken.push(format!("{name} #{number}: {error:#}"));
                }
            }));
        }
        for way in fresh {
            let (way, seen, stopped) = (way.clone(), seen.clone(), stopped.clone());
            tasks.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    let began = Instant::now();
                    let result = short(&way).await;
                    note(&seen, &way, began.elapsed(), result);
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
            }));
        }
        for addr in probes.iter().copied() {
            let (seen, stopped) = (seen.clone(), stopped.clone());
            tasks.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    if let Err(error) = TcpStream::connect(addr).await {
                        seen.lock().unwrap().refused.push(format!("{addr}: {error}"));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        Ok(Self { stop, seen, bytes, tasks })
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        Seen { bytes: self.bytes.load(Ordering::Relaxed), ..self.seen.lock().unwrap().clone() }
    }

    /// Ends the load and tells what it saw.
    pub(super) async fn stop(self) -> Result<Seen> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await?;
        }
        let seen = self.seen.lock().unwrap().clone();
        Ok(Seen { bytes: self.bytes.load(Ordering::Relaxed), ..seen })
    }
}

impl Seen {
    /// Fails unless everything went well.
    pub(super) fn flawless(&self) -> Result<()> {
        ensure!(self.broken.is_empty(), "streams broke: {}", summary(&self.broken));
        ensure!(self.refused.is_empty(), "connects refused: {}", summary(&self.refused));
        ensure!(self.failed.is_empty(), "new connections failed: {}", summary(&self.failed));
        ensure!(self.bytes > 0 && self.connected > 0, "there was no load: {self:?}");
        Ok(())
    }
}

/// Reasons with their counts.
pub(super) fn summary(reasons: &[String]) -> String {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.as_str()).or_insert(0u32) += 1;
    }
    format!("{} in all: {counts:?}", reasons.len())
}

/// Keeps 64 KiB in flight and checks every byte that comes back.
async fn long(
    stream: TcpStream,
    seed: u64,
    stopped: watch::Receiver<bool>,
    bytes: &AtomicU64,
) -> Result<()> {
    let (mut read, mut write) = stream.into_split();
    let (mut sent, mut expected) = (Pattern::new(seed), Pattern::new(seed));
    let mut buffer = vec![0; 16 * 1024];
    for _ in 0..4 {
        write.write_all(&sent.take(buffer.len())).await?;
    }
    while !*stopped.borrow() {
        let wait = tokio::time::timeout(Duration::from_secs(15), read.read_exact(&mut buffer));
        wait.await.context("stalled for 15 s")?.context("read")?;
        ensure!(expected.matches(&buffer), "wrong bytes came back");
        bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        write.write_all(&sent.take(buffer.len())).await.context("write")?;
    }
    Ok(())
}

fn note(seen: &Mutex<Seen>, way: &Way, took: Duration, result: Result<()>) {
    let mut seen = seen.lock().unwrap();
    seen.slowest = seen.slowest.max(took);
    match result {
        Ok(()) => seen.connected += 1,
        Err(error) => seen.failed.push(format!("{}: {error:#}", way.name)),
    }
}

async fn short(way: &Way) -> Result<()> {
    let mut stream = way.via.tcp(&way.echo).await?;
    stream.write_all(b"ping").await?;
    let mut buffer = [0; 4];
    let wait = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut buffer));
    wait.await.context("no echo in 10 s")?.context("read")?;
    ensure!(&buffer == b"ping", "wrong bytes came back");
    Ok(())
}
