//! Clients of a DERP server, all in one thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::tailnet::derp::{Client, Hello, Keys, kind};
use crosspoint_kernel::resolve::NO_TRAIL;
use crosspoint_schema::options::TlsOutOptions;
use crosspoint_tls::{Client as TlsClient, ClientDefaults, TlsStream};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::nanos;
use crate::stats::percentile;

/// Below the ephemeral range of the namespace.
const PORT: u16 = 1443;
const NAME: &str = "derp.test";
/// Logins at a time.
const AT_ONCE: usize = 32;

/// Where the server is, and how a client gets in.
pub(super) struct Door {
    dir: TempDir,
    tls: TlsClient,
}

impl Door {
    pub(super) fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("cert.pem"), certificate.pem())?;
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem())?;
        let mut options = TlsOutOptions { enabled: true, ..TlsOutOptions::default() };
        options.server_name = NAME.to_owned();
        options.insecure = true;
        let tls = TlsClient::new(&options, NAME, &ClientDefaults::default())?;
        Ok(Self { dir, tls })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    }

    pub(super) fn config(&self) -> Value {
        json!({
            "log": { "level": "error" },
            "outbounds": [{ "type": "direct" }],
            "services": [{
                "type": "derp", "listen": "127.0.0.1", "listen_port": PORT, "config_path": "derp.key",
                "tls": {
                    "enabled": true, "server_name": NAME,
                    "certificate_path": self.file("cert.pem"), "key_path": self.file("key.pem"),
                },
            }],
        })
    }
}

type Derp = Client<TlsStream>;

async fn log_in(tls: TlsClient, addr: SocketAddr) -> Result<Derp> {
    let entering = async {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let stream = tls.connect(Box::new(stream), &NO_TRAIL).await;
        let stream = stream.map_err(|error| anyhow::anyhow!("TLS: {error}"))?;
        let hello = Hello { fast: true, host: NAME.to_owned(), ..Hello::default() };
        Client::login(stream, &Keys::generate()?, &hello).await
    };
    tokio::time::timeout(Duration::from_secs(30), entering).await.context("log in")?
}

async fn log_in_all(door: &Door, count: usize) -> Result<Vec<Derp>> {
    let (mut clients, mut entering) = (Vec::with_capacity(count), JoinSet::new());
    for _ in 0..count {
        if entering.len() == AT_ONCE
            && let Some(client) = entering.join_next().await
        {
            clients.push(client??);
        }
        entering.spawn(log_in(door.tls.clone(), door.addr()));
    }
    while let Some(client) = entering.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

/// What has happened since it was last asked.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) arrived: u64,
    latencies: Vec<u32>,
}

impl Counts {
    /// In seconds.
    pub(super) fn p99(&self) -> f64 {
        percentile(&self.latencies, 0.99) / 1e9
    }
}

/// Pairs at work.
pub(super) struct Crowd {
    tally: Arc<Tally>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Tally {
    sent: AtomicU64,
    arrived: AtomicU64,
    /// Nobody waits for the lock: there is one thread.
    latencies: Mutex<Vec<u32>>,
    broken: AtomicBool,
}

impl Tally {
    fn latencies(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    /// Clients that are logged in and silent.
    pub(super) async fn idle(door: &Door, count: usize) -> Result<Vec<Derp>> {
        let mut clients = log_in_all(door, count).await?;
        clients.iter_mut().for_each(|client| client.reader.shrink());
        Ok(clients)
    }

    /// One of each pair sends as fast as it can, a frame at a time as nodes do; the other one counts.
    pub(super) async fn flood(door: &Door, pairs: usize, packet: usize) -> Result<Self> {
        let mut clients = log_in_all(door, 2 * pairs).await?;
        let (tally, mut tasks) = (Arc::<Tally>::default(), JoinSet::new());
        while let (Some(mut from), Some(mut to)) = (clients.pop(), clients.pop()) {
            let (sending, counting) = (tally.clone(), tally.clone());
            let key = to.key;
            tasks.spawn(async move {
                let packet = vec![7; packet];
                while from.writer.send(&key, &packet).await.is_ok() {
                    sending.sent.fetch_add(1, Ordering::Relaxed);
                    // A socket that always has room must not keep the others from their turn.
                    tokio::task::consume_budget().await;
                }
                sending.broken.store(true, Ordering::Relaxed);
            });
            tasks.spawn(async move {
                // Both halves stay.
                let writer = to.writer;
                while let Ok((frames, _)) = to.reader.count(kind::RECV).await {
                    counting.arrived.fetch_add(frames, Ordering::Relaxed);
                }
                drop(writer);
                counting.broken.store(true, Ordering::Relaxed);
            });
        }
        Ok(Self { tally, _tasks: tasks })
    }

    /// One of each pair sends a frame, the other one answers with a frame, and so on.
    pub(super) async fn turns(door: &Door, pairs: usize, packet: usize) -> Result<Self> {
        let mut clients = log_in_all(door, 2 * pairs).await?;
        let (tally, mut tasks) = (Arc::<Tally>::default(), JoinSet::new());
        while let (Some(from), Some(to)) = (clients.pop(), clients.pop()) {
            let tally = tally.clone();
            tasks.spawn(async move {
                drop(converse(from, to, packet, &tally).await);
                tally.broken.store(true, Ordering::Relaxed);
            });
        }
        Ok(Self { tally, _tasks: tasks })
    }

    /// What has happened since the last call.
    pub(super) fn take(&self) -> Counts {
        let mut latencies = std::mem::take(&mut *self.tally.latencies());
        latencies.sort_unstable();
        Counts {
            sent: self.tally.sent.swap(0, Ordering::Relaxed),
            arrived: self.tally.arrived.swap(0, Ordering::Relaxed),
            latencies,
        }
    }

    /// Fails if a connection has ended.
    pub(super) fn whole(&self) -> Result<()> {
        ensure!(!self.tally.broken.load(Ordering::Relaxed), "a connection has ended");
        Ok(())
    }
}

async fn converse(mut from: Derp, mut to: Derp, packet: usize, tally: &Tally) -> Result<()> {
    let packet = vec![7; packet];
    loop {
        let begun = Instant::now();
        from.writer.send(&to.key, &packet).await?;
        to.reader.count(kind::RECV).await?;
        to.writer.send(&from.key, &packet).await?;
        from.reader.count(kind::RECV).await?;
        tally.sent.fetch_add(2, Ordering::Relaxed);
        tally.arrived.fetch_add(2, Ordering::Relaxed);
        tally.latencies().push(nanos(begun));
    }
}
