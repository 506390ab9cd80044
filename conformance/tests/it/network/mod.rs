//! `auto_detect_interface` while the network changes, in two namespaces with two cables between them.
//!
//! ```text
//!  left: the daemon     veth0 10.77.N.1 ──── 10.77.N.2 veth0     right: 192.0.2.1, a server that says
//!                       veth1 10.78.N.1 ──── 10.78.N.2 veth1            who it sees, and echoes
//! ```
//! A policy rule in `left` sends every socket that is bound to no interface through `veth1`: that is what `auto_route`
//! of a TUN interface does.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::net::{Socks, Target, Via};
use crosspoint_conformance::netns::{self, Lab};
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SERVER: u16 = 7000;
const PROXY: u16 = 1080;

struct World {
    lab: Lab,
    /// The other cable, `10.78.N`.
    second: String,
    /// The first one, `10.77.N`.
    first: String,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let IpAddr::V4(left) = lab.left.v4() else { bail!("no IPv4 in the lab") };
        let [_, _, net, _] = left.octets();
        let world = Self { lab, first: format!("10.77.{net}"), second: format!("10.78.{net}") };
        let (left, right) = (world.lab.left.name(), world.lab.right.name());
        ip(&format!("-n {left} link add veth1 type veth peer name veth1 netns {right}"))?;
        for (netns, host) in [(left, 1), (right, 2)] {
            ip(&format!("-n {netns} addr add {}.{host}/24 dev veth1", world.second))?;
            ip(&format!("-n {netns} link set veth1 up"))?;
        }
        ip(&format!("-n {right} addr add {FAR}/32 dev lo"))?;
        world.route("add default via FIRST.2 dev veth0 metric 100")?;
        world.left("rule add pref 100 table 100")?;
        world.route("add default via SECOND.2 dev veth1 table 100")?;
        // For destinations on the cables the rule has nothing to say.
        world.left("rule add pref 50 table main suppress_prefixlength 0")?;
        world.serve()?;
        Ok(world)
    }

    fn left(&self, command: &str) -> Result<()> {
        let command = command.replace("FIRST", &self.first).replace("SECOND", &self.second);
        ip(&format!("-n {} {command}", self.lab.left.name()))
    }

    fn route(&self, command: &str) -> Result<()> {
        self.left(&format!("route {command}"))
    }

    /// Says who has connected, and echoes.
    fn serve(&self) -> Result<()> {
        let bound = self
            .lab
            .right
            .run(|| async { Ok(std::net::TcpListener::bind(("0.0.0.0", SERVER))?) })?;
        let listener = bound.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        // Ends with the process: the namespace goes before that.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || -> std::io::Result<()> {
                    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                    let peer = stream.peer_addr()?.ip().to_string();
                    writeln!(stream, "{peer:<20}")?;
                    let mut buffer = [0; 512];
                    loop {
                        match stream.read(&mut buffer)? {
                            0 => return Ok(()),
                            length => stream.write_all(&buffer[..length])?,
                        }
                    }
                });
            }
        });
        Ok(())
    }

    async fn daemon(&self) -> Result<Running> {
        let config = json!({
            "log": { "level": "debug" },
            "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": PROXY }],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": { "auto_detect_interface": true }
        });
        Subject::Crosspoint(None).launch(&config)?.netns(&self.lab.left).start().await
    }

    /// Connects through the proxy. Returns the connection and the address that the server saw.
    async fn connect(&self, to: IpAddr) -> Result<(TcpStream, String)> {
        self.lab
            .left
            .within(move || async move {
                let proxy = SocketAddr::from(([127, 0, 0, 1], PROXY));
                let mut stream =
                    Via::from(Socks::v5(proxy)).tcp(&Target::Addr((to, SERVER).into())).await?;
                let mut seen = [0; 21];
                stream.read_exact(&mut seen).await?;
                let seen = String::from_utf8_lossy(&seen).trim().to_owned();
                // Leaves the runtime of that thread.
                Ok((stream.into_std()?, seen))
            })
            .await
            .and_then(|(stream, seen)| Ok((TcpStream::from_std(stream)?, seen)))
    }

    /// Connects until the server sees the first of our addresses on that cable. Returns how long that took.
    async fn until(&self, cable: &str) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let seen = self.connect(FAR).await.map(|(_, seen)| seen);
            if seen.as_ref().is_ok_and(|seen| *seen == format!("{cable}.1")) {
                return Ok(started.elapsed());
            }
            ensure!(started.elapsed() < Duration::from_secs(5), "not over {cable}: {seen:?}");
        }
    }
}

fn ip(command: &str) -> Result<()> {
    let output =
        Command::new("ip").args(command.split_whitespace()).output().context("start `ip`")?;
    ensure!(
        output.status.success(),
        "ip {command}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

async fn echoes(stream: &mut TcpStream) -> Result<()> {
    let exchange = async {
        stream.write_all(b"still there").await?;
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"still there");
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.context("no echo in 5 s")?
}

#[tokio::test]
async fn dials_follow_the_default_route_and_flows_stay() -> Result<()> {
    if !netns::available("dials_follow_the_default_route_and_flows_stay") {
        return Ok(());
    }
    let world = World::new()?;
    let (first, second) = (world.first.clone(), world.second.clone());
    let mut daemon = world.daemon().await?;
    let log = |daemon: &Running| daemon.log();
    daemon
        .wait_log(
            |log| log.contains("network: updated default interface veth0, index "),
            Duration::from_secs(5),
        )
        .await?;

    // Bound to the interface of the main table, not to where the policy rule leads.
    let (mut old, seen) = world.connect(FAR).await?;
    ensure!(seen == format!("{first}.1"), "{seen}\n{}", log(&daemon));
    // What is on a cable goes over that cable, our own address included.
    let on = |cable: &str, host: u8| -> Result<IpAddr> { Ok(format!("{cable}.{host}").parse()?) };
    let (_, seen) = world.connect(on(&second, 2)?).await?;
    ensure!(seen == format!("{second}.1"), "{seen}");

    // A better default route appears.
    world.route("add default via SECOND.2 dev veth1 metric 50")?;
    let moved = world.until(&second).await?;
    echoes(&mut old).await.context("the old flow")?;
    let (mut new, _) = world.connect(FAR).await?;
    // And goes again.
    world.route("del default via SECOND.2 dev veth1 metric 50")?;
    let back = world.until(&first).await?;
    echoes(&mut old).await.context("the old flow")?;
    println!(
        "new dials {moved:?} and {back:?} after the default route moved, with a connection made"
    );

    // Another address, with another network on the cable.
    let right = world.lab.right.name();
    ip(&format!("-n {right} addr add 10.79.0.2/24 dev veth1"))?;
    world.left("addr add 10.79.0.1/24 dev veth1")?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, seen) = world.connect(on("10.79.0", 2)?).await?;
    ensure!(seen == "10.79.0.1", "{seen}");

    // No way out: an error that says so, and no dial into the wrong network.
    world.left("link set veth0 down")?;
    daemon
        .wait_log(|log| log.contains("network: missing default interface"), Duration::from_secs(5))
        .await?;
    ensure!(world.connect(FAR).await.is_err(), "there was a way");
    ensure!(log(&daemon).contains("no route to internet"), "{}", log(&daemon));
    let (_, seen) = world.connect(on(&second, 2)?).await?;
    ensure!(seen == format!("{second}.1"), "{seen}");

    // And back.
    world.left("link set veth0 up")?;
    world.route("add default via FIRST.2 dev veth0 metric 100")?;
    world.until(&first).await?;
    drop((old, new.shutdown().await));
    let status = daemon.ctl(&["status"])?;
    let monitor =
        status["components"].as_array().into_iter().flatten().find(|c| c["tag"] == "network");
    ensure!(monitor.is_some_and(|c| c["restarts"] == 0), "{status}");
    Ok(())
}
