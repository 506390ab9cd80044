//! DNS server `fakeip`: what clients were told stays true over reloads, restarts and kills.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use crosspoint_conformance::net::origin::Origin;
use crosspoint_conformance::net::{Socks, Target, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Ask;

const WAIT: Duration = Duration::from_secs(5);

struct World {
    dns: u16,
    socks: u16,
    cache: String,
}

impl World {
    fn config(&self, range: &str, extra: &str) -> Value {
        json!({
            "log": { "level": "debug" },
            "dns": {
                "servers": [
                    { "type": "hosts", "tag": "hosts", "path": ["/nonexistent"],
                      "predefined": { "echo.test": "127.0.0.1", "unused.test": extra } },
                    { "type": "fakeip", "tag": "fake", "inet4_range": range },
                ],
                "rules": [{ "query_type": "A", "server": "fake" }],
                "final": "hosts",
            },
            "inbounds": [
                { "type": "direct", "tag": "dns", "listen": "127.0.0.1", "listen_port": self.dns },
                { "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": self.socks },
            ],
            "outbounds": [{ "type": "direct" }],
            "route": {
                "rules": [{ "inbound": "dns", "action": "hijack-dns" }],
                "default_domain_resolver": "hosts",
            },
            "experimental": {
                "cache_file": { "enabled": true, "path": self.cache, "store_fakeip": true },
            },
        })
    }

    /// The address that a client is told.
    async fn address(&self, name: &str) -> Result<String> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.dns));
        let told = Ask::parse(&format!("{name} A"))?.at(server, WAIT).await?;
        let mut words = told.rsplit(' ');
        Ok(words.next().unwrap_or_default().to_owned())
    }

    /// Whether a connection to that address reaches the echo server behind `echo.test`.
    async fn echoes(&self, address: &str, port: u16) -> Result<bool> {
        let via = Via::from(Socks::v5(([127, 0, 0, 1], self.socks).into()));
        let target = Target::from(SocketAddr::new(address.parse()?, port));
        let Ok(mut stream) = via.tcp(&target).await else { return Ok(false) };
        let mut back = [0; 4];
        let talk = async {
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut back).await
        };
        Ok(matches!(tokio::time::timeout(WAIT, talk).await, Ok(Ok(_))) && back == *b"ping")
    }
}

async fn applied(daemon: &Running, what: &str) -> Result<()> {
    let end = tokio::time::Instant::now() + WAIT;
    while !daemon.log().contains(what) {
        ensure!(tokio::time::Instant::now() < end, "no {what:?} in\n{}", daemon.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn addresses_keep_their_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = dir.path().join("cache.db").to_string_lossy().into_owned();
    let [dns, socks] = ports::many();
    let world = World { dns, socks, cache };
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let port = echo.addr().port();
    let config = world.config("198.18.0.0/15", "192.0.2.1");
    let mut daemon = Subject::Crosspoint(None).start(&config).await?;
    ensure!(world.address("first.test").await? == "198.18.0.3");
    ensure!(world.address("echo.test").await? == "198.18.0.4");
    ensure!(world.echoes("198.18.0.4", port).await?, "{}", daemon.log_tail());
    ensure!(!world.echoes("198.18.0.99", port).await?, "an address that nobody was told");
    ensure!(daemon.log().contains("missing fakeip record"), "{}", daemon.log_tail());

    // Other servers change, this one does not; then its ranges do.
    daemon.reload(&world.config("198.18.0.0/15", "192.0.2.2"))?;
    applied(&daemon, "generation=2").await?;
    ensure!(world.address("echo.test").await? == "198.18.0.4");
    ensure!(world.address("second.test").await? == "198.18.0.5");

    // No goodbye: killed the moment the answer is there.
    for (round, name) in ["x.test", "y.test", "z.test"].into_iter().enumerate() {
        let told = world.address(name).await?;
        daemon.signal(Signal::KILL)?;
        drop(daemon);
        daemon = Subject::Crosspoint(None).start(&config).await?;
        ensure!(world.address(name).await? == told, "round {round}: {name} was {told}");
        ensure!(world.address("echo.test").await? == "198.18.0.4", "round {round}");
        ensure!(world.echoes("198.18.0.4", port).await?, "{}", daemon.log_tail());
    }
    ensure!(world.address("new.test").await? == "198.18.0.9", "and none is given out twice");

    daemon.stop().await?;
    let mut daemon =
        Subject::Crosspoint(None).start(&world.config("10.9.0.0/24", "192.0.2.1")).await?;
    ensure!(world.address("echo.test").await? == "10.9.0.3", "other ranges begin anew");
    daemon.stop().await?;
    Ok(())
}
