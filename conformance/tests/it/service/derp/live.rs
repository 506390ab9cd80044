//! Restarts of the service in place and reloads: clients are still there or come back, and traffic goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::tailnet::derp::{Client, Hello, Keys, kind};
use crosspoint_tls::Client as TlsClient;
use serde_json::json;
use tokio::net::TcpStream;

use super::stage::{Server, World, comes_through, is_ours, says, tls};
use crate::live::stage::until;

/// Two clients that send to each other all the time, and come back when they are thrown out.
struct Couple {
    heard: Arc<AtomicU64>,
    came_back: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Couple {
    fn start(world: &World, server: &Server) -> Result<Self> {
        let (heard, came_back) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let stop = Arc::<AtomicBool>::default();
        let pair = [Keys::generate()?, Keys::generate()?];
        let mut tasks = Vec::new();
        for (own, other) in [(0, 1), (1, 0)] {
            let (own, to) = (pair[own].clone(), pair[other].public);
            let (client, addr) = (world.client()?, server.addr());
            let (heard, came_back, stop) = (heard.clone(), came_back.clone(), stop.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let session = session(&client, addr, &own, &to, &heard, &stop);
                    if session.await.is_err() {
                        came_back.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                Ok(())
            }));
        }
        Ok(Self { heard, came_back, stop, tasks })
    }

    /// Waits until packets go both ways again.
    async fn talks(&self, what: &str) -> Result<()> {
        let before = self.heard.load(Ordering::Relaxed);
        until(what, Duration::from_secs(10), async || {
            self.heard.load(Ordering::Relaxed) > before + 20
        })
        .await
        .map(drop)
    }

    fn came_back(&self) -> u64 {
        self.came_back.load(Ordering::Relaxed)
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// One connection: sends every ten milliseconds, hears what comes.
async fn session(
    client: &TlsClient,
    addr: std::net::SocketAddr,
    own: &Keys,
    to: &[u8; 32],
    heard: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let stream = tls(client, TcpStream::connect(addr).await?).await?;
    let mut derp = Client::login(stream, own, &Hello::default()).await?;
    while !stop.load(Ordering::Relaxed) {
        derp.writer.send(to, b"still here").await?;
        let wait = tokio::time::Instant::now() + Duration::from_millis(10);
        while let Ok(frame) = tokio::time::timeout_at(wait, derp.reader.frame()).await {
            if frame?.kind == kind::RECV {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_on_through_restarts_and_reloads() -> Result<()> {
    if !is_ours("restarts of a DERP service") {
        return Ok(());
    }
    let world = World::new()?;
    let port = crosspoint_conformance::ports::free();
    let mut config = world.config(port, &json!({}));
    let server = world.start_with(&config, port).await?;
    let key = server.client().await?.server;
    let couple = Couple::start(&world, &server)?;
    couple.talks("at start").await?;

    // What concerns somebody else closes no connection.
    config["outbounds"] = json!([{ "type": "direct" }, { "type": "block", "tag": "more" }]);
    server.reload(&config)?;
    couple.talks("after a reload of others").await?;
    ensure!(couple.came_back() == 0, "a reload of others closed connections");

    for round in 0..3 {
        server.restart()?;
        couple.talks("after a restart").await.with_context(|| format!("round {round}"))?;
        ensure!(server.client().await?.server == key, "another key after a restart");
        let options = json!({ "home": if round % 2 == 0 { "blank" } else { "" } });
        let changed = world.config(port, &options);
        server.reload(&changed)?;
        couple.talks("after a reload that replaces the service").await?;
        ensure!(server.client().await?.server == key, "another key after a reload");
    }
    println!("3 restarts and 3 changes: connections were made anew {} times", couple.came_back());
    couple.end().await?;

    // A client from before and one from after find each other.
    let mut old = server.client().await?;
    server.restart()?;
    let mut new = server.client().await?;
    if comes_through(&mut new, &mut old, Duration::from_secs(2)).await.is_err() {
        ensure!(
            old.writer.send(&new.key, b"?").await.is_err() || old.reader.frame().await.is_err(),
            "a connection that is neither served nor closed"
        );
    }
    let mut other = server.client().await?;
    says(&mut new, &mut other, b"both new").await
}
