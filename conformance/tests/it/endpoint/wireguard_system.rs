//! WireGuard with an interface of the system (`system`), in two namespaces with a cable between them:
//!
//! ```text
//!  left: the program under test      10.77.N.1 ──── 10.77.N.2      right: the reference
//!        interface cpwg 10.9.0.1 ═════════ tunnel ═════════ 10.9.0.2 in user space, or an interface too
//!        10.50.1.0/24: its router                  10.50.2.0/24: its router
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Target, Via,
        suite::{self, Naming, Origins},
    },
    netns::{self, Lab, Netns},
    process::Running,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use super::wireguard_stage::{Keys, keys};

/// Where clients enter, on loopback of both hosts, and where the outer sockets are.
const ENTRY: u16 = 1080;
const OUTER: u16 = 5000;
const NAME: &str = "cpwg";

/// Two hosts, and a key for each.
struct Stand {
    lab: Lab,
    keys: [Keys; 2],
}

/// Servers in a namespace, until they are dropped.
struct Served {
    origins: Arc<Origins>,
    _stop: oneshot::Sender<()>,
}

impl Served {
    async fn on(netns: &Netns, ip: &str) -> Result<Self> {
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let addr = SocketAddr::new(ip.parse()?, 0).to_string();
        netns.run(move || async move {
            let _ = started.send(Origins::on(&addr).await);
            let _ = stopped.await;
            Ok(())
        })?;
        let origins = starting.await.with_context(|| format!("servers at {ip}"))??;
        Ok(Self { origins: Arc::new(origins), _stop: stop })
    }

    /// The echo server as it is seen at another address.
    fn tcp(&self, ip: &str) -> Result<Target> {
        Ok(SocketAddr::new(ip.parse()?, self.origins.echo.addr().port()).into())
    }

    fn udp(&self, ip: &str) -> Result<Target> {
        Ok(SocketAddr::new(ip.parse()?, self.origins.udp.addr().port()).into())
    }
}

fn entry() -> Via {
    Via::from(Socks::v5(([127, 0, 0, 1], ENTRY).into()))
}

impl Stand {
    fn new() -> Result<Self> {
        Ok(Self { lab: Lab::new()?, keys: [keys()?, keys()?] })
    }

    /// The configuration of host 1 (left) or 2. Its endpoint has what `more` says beside.
    fn config(&self, me: usize, more: &Value) -> Value {
        let other = 3 - me;
        let far = if me == 1 { self.lab.right.v4() } else { self.lab.left.v4() };
        let mut endpoint = json!({
            "type": "wireguard", "tag": "tunnel", "listen_port": OUTER,
            "private_key": self.keys[me - 1].private,
            "address": [format!("10.9.0.{me}/24"), format!("fd00:9::{me}/64")],
            "peers": [{
                "address": far.to_string(), "port": OUTER, "public_key": self.keys[other - 1].public,
                "allowed_ips": [
                    format!("10.9.0.{other}/32"), format!("10.50.{other}.0/24"),
                    format!("fd00:9::{other}/128"), format!("fd00:50:{other}::/48"),
                ],
            }],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            endpoint[key] = value.clone();
        }
        // Loopback addresses are those of the other host; networks behind this one end at its own loopback.
        let toward = |ip: &str, to: String| json!({ "inbound": "in", "ip_cidr": ip, "outbound": "tunnel", "override_address": to });
        let here = |ip: String, to: &str| json!({ "inbound": "tunnel", "ip_cidr": ip, "outbound": "direct", "override_address": to });
        json!({
            "log": { "level": "debug" },
            "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": ENTRY }],
            "endpoints": [endpoint],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": { "rules": [
                toward("127.0.0.1/32", format!("10.9.0.{other}")),
                toward("::1/128", format!("fd00:9::{other}")),
                here(format!("10.50.{me}.0/24"), "127.0.0.1"),
                here(format!("fd00:50:{me}::/48"), "::1"),
                { "inbound": "in", "outbound": "tunnel" },
            ], "final": "direct" },
        })
    }

    async fn ours(&self, more: &Value) -> Result<Running> {
        self.start(&Subject::under_test(), &self.lab.left, &self.config(1, more)).await
    }

    async fn theirs(&self, more: &Value) -> Result<Running> {
        self.start(&Subject::Reference, &self.lab.right, &self.config(2, more)).await
    }

    async fn start(&self, subject: &Subject, netns: &Netns, config: &Value) -> Result<Running> {
        let launch = subject.launch(config)?.netns(netns);
        let launch = launch
            .env("ENABLE_DEPRECATED_WIREGUARD_OUTBOUND", "true")
            .env("ENABLE_DEPRECATED_WIREGUARD_GSO", "true");
        launch.start().await.with_context(|| subject.name().to_owned())
    }

    /// What `ip` prints on the left.
    fn ip(&self, command: &str) -> Result<String> {
        let netns = self.lab.left.name();
        let output = Command::new("ip").args(["-n", netns]).args(command.split(' ')).output()?;
        ensure!(
            output.status.success(),
            "ip {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Number of our interface, if there is one.
    fn index(&self) -> Result<Option<u32>> {
        let links = self.ip("-o link show")?;
        let mine = links.lines().find(|line| line.contains(&format!(" {NAME}:")));
        mine.and_then(|line| line.split(':').next()).map(|n| Ok(n.trim().parse()?)).transpose()
    }

    /// Nothing of ours is left in the system.
    fn is_clean(&self) -> Result<()> {
        ensure!(self.index()?.is_none(), "the interface is still there");
        let rules = self.ip("-6 rule show")?;
        ensure!(!rules.contains(NAME), "a rule is still there: {rules}");
        Ok(())
    }
}

/// Everything from the clients of a host to servers, through that way.
async fn all(netns: &Netns, via: Via, served: &Served, what: &str) -> Result<()> {
    let origins = served.origins.clone();
    let said = format!("{what}, {}", origins.echo.addr());
    let suites = move || async move {
        suite::tcp(&via, &origins, Naming::Address).await?;
        suite::udp(&via, &origins, Naming::Address).await
    };
    netns.within(suites).await.with_context(|| said)
}

/// A little of everything, to servers that are seen at another address.
async fn some(netns: &Netns, via: Via, served: &Served, ip: &str, what: &str) -> Result<()> {
    let (tcp, udp) = (served.tcp(ip)?, served.udp(ip)?);
    let suites = move || async move {
        suite::tcp_ping_pong(&via, &tcp).await?;
        suite::tcp_bulk(&via, &tcp, suite::BULK).await?;
        suite::udp_ping_pong(&via, &udp).await?;
        suite::udp_size(&via, &udp, 4096).await
    };
    netns.within(suites).await.with_context(|| format!("{what}, {ip}"))
}

/// A hundred flows at once from a host.
async fn many(netns: &Netns, served: &Served, ip: &str) -> Result<()> {
    let target = served.tcp(ip)?;
    let flows = move || async move {
        let mut flows = tokio::task::JoinSet::new();
        for n in 0..100_u64 {
            let target = target.clone();
            let len = if n % 20 == 0 { 2_000_000 } else { 20_000 };
            flows.spawn(async move { suite::tcp_bulk(&entry(), &target, len).await });
        }
        while let Some(done) = flows.join_next().await {
            done??;
        }
        Ok(())
    };
    netns.within(flows).await.with_context(|| format!("a hundred flows to {ip}"))
}

/// Looks at every packet of a host until it is told to stop: on its cable there must be nothing but the tunnel's.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u64>>,
}

impl Watch {
    fn on(netns: &Netns) -> Result<Self> {
        use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, sockopt};
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = netns.run(move || async move {
            let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
            let socket =
                rustix::net::socket_with(AddressFamily::PACKET, kind, flags, Some(eth::ALL))?;
            let wait = Some(Duration::from_millis(50));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait)?;
            let mut buf = vec![0; 128];
            let mut outer = 0;
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, _)) = rustix::net::recv(&socket, &mut buf[..], RecvFlags::empty())
                else {
                    continue;
                };
                match look(&buf[..len]) {
                    Some(Seen::Outer) => outer += 1,
                    Some(Seen::Leak(what)) => bail!("outside of the tunnel: {what}"),
                    None => {}
                }
            }
            Ok(outer)
        })?;
        Ok(Self { stop, thread })
    }

    /// How many packets of the tunnel there were.
    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.map_err(|_| anyhow::anyhow!("the watch panicked"))?
    }
}

enum Seen {
    Outer,
    Leak(String),
}

/// What a packet is, beside those of loopback and of the link itself (ICMPv6, IGMP).
fn look(packet: &[u8]) -> Option<Seen> {
    let (src, dst, protocol, rest): (IpAddr, IpAddr, u8, _) = match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
            (ip(12)?, ip(16)?, packet[9], packet.get(20..)?)
        }
        6 => {
            let ip = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
            (ip(8)?, ip(24)?, packet[6], packet.get(40..)?)
        }
        _ => return None,
    };
    if src.is_loopback() || dst.is_multicast() || matches!(protocol, 2 | 58) {
        return None;
    }
    let word = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let cable = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [10, 77]);
    // A fragment behind the first has no ports.
    let part = packet[0] >> 4 == 4 && packet[6..8] != [0, 0] && packet[6..8] != [0x40, 0];
    let outer = protocol == 17 && (part || word(0) == Some(OUTER) && word(2) == Some(OUTER));
    Some(match outer && cable(src) && cable(dst) {
        true => Seen::Outer,
        false => Seen::Leak(format!("{src} to {dst}, protocol {protocol}")),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_of_ours_and_the_reference_in_user_space() -> Result<()> {
    if !netns::available("WireGuard with an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    for mtu in [1280, 1408, 1500] {
        let _ours = stand.ours(&json!({ "system": true, "name": NAME, "mtu": mtu })).await?;
        let _theirs = stand.theirs(&json!({ "mtu": mtu })).await?;
        let link = stand.ip(&format!("link show {NAME}"))?;
        ensure!(link.contains(&format!("mtu {mtu} ")), "another MTU: {link}");
        let watch = Watch::on(right)?;
        for (own, loopback, net) in
            [("10.9.0", "127.0.0.1", "10.50"), ("fd00:9:", "::1", "fd00:50")]
        {
            let (far, near) =
                (Served::on(right, loopback).await?, Served::on(left, loopback).await?);
            let mine =
                Served::on(left, &format!("{own}{}1", if own.ends_with(':') { ":" } else { "." }))
                    .await?;
            let dot = if own.ends_with(':') { ":" } else { "." };
            let behind = |host: u8| match own.ends_with(':') {
                true => format!("{net}:{host}::7"),
                false => format!("{net}.{host}.7"),
            };
            all(left, entry(), &far, "from us").await?;
            some(left, Via::Direct, &far, &format!("{own}{dot}2"), "from our system").await?;
            all(right, entry(), &mine, "to our system").await?;
            some(left, entry(), &far, &behind(2), "to a network behind the peer").await?;
            some(right, entry(), &near, &behind(1), "to our router").await?;
            if mtu == 1408 {
                many(left, &far, loopback).await?;
                many(right, &mine, &format!("{own}{dot}1")).await?;
            }
        }
        ensure!(watch.end().await? > 1000, "the watch saw nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_interfaces() -> Result<()> {
    if !netns::available("WireGuard between two interfaces of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let _ours = stand.ours(&json!({ "system": true, "name": NAME })).await?;
    let _theirs = stand.theirs(&json!({ "system": true, "name": "wgref" })).await?;
    for (ours, theirs) in [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")] {
        let (mine, far) = (Served::on(left, ours).await?, Served::on(right, theirs).await?);
        all(left, entry(), &far, "from us").await?;
        all(left, Via::Direct, &far, "from our system").await?;
        all(right, entry(), &mine, "to our system").await?;
        all(right, Via::Direct, &mine, "from their system").await?;
    }
    Ok(())
}

/// The old outbound: everything that comes in belongs to the system. Its interface has no name, so that it gets a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_outbound_has_an_interface() -> Result<()> {
    if !netns::available("the old WireGuard outbound with an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let mut config = stand.config(1, &json!({}));
    let endpoint = config["endpoints"][0].take();
    config["endpoints"] = json!([]);
    let peer = &endpoint["peers"][0];
    let outbound = json!({
        "type": "wireguard", "tag": "tunnel", "system_interface": true, "gso": true,
        "local_address": endpoint["address"], "private_key": endpoint["private_key"],
        "peers": [{ "server": peer["address"], "server_port": OUTER, "public_key": peer["public_key"], "allowed_ips": peer["allowed_ips"] }],
    });
    let more = config["outbounds"].as_array_mut().context("no outbounds")?;
    more.push(outbound);
    let mut ours = stand.start(&Subject::under_test(), left, &config).await?;
    let _theirs = stand.theirs(&json!({})).await?;
    stand.ip("link show wg0").context("an interface of the next number")?;
    let (far, mine) = (Served::on(right, "127.0.0.1").await?, Served::on(left, "10.9.0.1").await?);
    all(left, entry(), &far, "from us").await?;
    all(right, entry(), &mine, "to our system").await?;
    ours.stop().await?;
    ensure!(stand.ip("link show wg0").is_err(), "the interface is still there");
    ensure!(!stand.ip("-6 rule show")?.contains("wg0"), "its rule is still there");
    Ok(())
}

/// A stream over which something is said now and then.
struct Flow(TcpStream);

impl Flow {
    async fn open(netns: &Netns, target: Target) -> Result<Self> {
        let open = move || async move { Ok(entry().tcp(&target).await?.into_std()?) };
        Ok(Self(TcpStream::from_std(netns.within(open).await?)?))
    }

    async fn beat(&mut self, when: &str) -> Result<()> {
        let said = async {
            self.0.write_all(b"still here").await?;
            let mut heard = [0; 10];
            self.0.read_exact(&mut heard).await?;
            ensure!(&heard == b"still here");
            Ok(())
        };
        let said = tokio::time::timeout(Duration::from_secs(10), said).await;
        said.map_err(|_| anyhow::anyhow!("silence")).flatten().with_context(|| when.to_owned())
    }
}

/// Puts a configuration in force.
fn reload(program: &Running, config: &Value) -> Result<()> {
    write_config(program.dir(), config)?;
    program.ctl(&["reload"]).map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_lives_with_its_endpoint() -> Result<()> {
    if !netns::available("the life of an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let more = json!({ "system": true, "name": NAME });
    let mut ours = stand.ours(&more).await?;
    let _theirs = stand.theirs(&json!({})).await?;
    let far = Served::on(right, "127.0.0.1").await?;
    let mut flow = Flow::open(left, far.tcp("127.0.0.1")?).await?;
    flow.beat("a new flow").await?;
    let index = stand.index()?;
    ensure!(index.is_some(), "no interface");

    // Other networks of a peer: the interface stays.
    let mut config = stand.config(1, &more);
    let allowed = config["endpoints"][0]["peers"][0]["allowed_ips"].as_array_mut();
    allowed.context("no networks")?.push(json!("fd00:60::/48"));
    reload(&ours, &config)?;
    ensure!(stand.index()? == index, "another interface after a reload of peers");
    ensure!(
        stand.ip("-6 route show table all")?.contains("fd00:60::/48"),
        "no route to a new network"
    );
    flow.beat("after a reload of peers").await?;
    reload(&ours, &stand.config(1, &more))?;
    ensure!(
        !stand.ip("-6 route show table all")?.contains("fd00:60::/48"),
        "a route to an old network"
    );
    flow.beat("after a second one").await?;

    // A new instance takes the interface of the old one, and its flows.
    ours.ctl(&["restart", "endpoint/tunnel"])?;
    ensure!(stand.index()? == index, "another interface after a restart");
    flow.beat("after a restart").await?;

    // Two owners of one name are refused, and nothing changes.
    let mut config = stand.config(1, &more);
    let mut second = config["endpoints"][0].clone();
    second["tag"] = json!("second");
    second["listen_port"] = json!(5001);
    config["endpoints"].as_array_mut().context("no endpoints")?.push(second);
    write_config(ours.dir(), &config)?;
    let refused = ours.ctl_raw(&["reload"])?;
    let said = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("interface cpwg is already taken"), "two owners: {said}");
    flow.beat("after a refused reload").await?;
    drop(flow);

    // Another size: another interface of the same name, with new flows.
    reload(&ours, &stand.config(1, &json!({ "system": true, "name": NAME, "mtu": 1300 })))?;
    ensure!(stand.ip(&format!("link show {NAME}"))?.contains("mtu 1300"), "the old size");
    some(left, entry(), &far, "127.0.0.1", "after a change of size").await?;

    // Somebody takes the interface away: it comes back.
    let index = stand.index()?;
    stand.ip(&format!("link del {NAME}"))?;
    let began = Instant::now();
    while stand.index()?.is_none_or(|now| Some(now) == index) {
        ensure!(began.elapsed() < Duration::from_secs(10), "it is gone: {}", ours.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    some(left, entry(), &far, "127.0.0.1", "after the interface was taken away").await?;
    let rules = stand.ip("-6 rule show")?;
    ensure!(rules.matches(NAME).count() == 1, "not one rule: {rules}");

    ours.stop().await?;
    stand.is_clean()
}

/// An interface that cannot be had is said, and the rest works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_interface_the_rest_works() -> Result<()> {
    if !netns::available("an interface of the system that cannot be had") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let left = &stand.lab.left;
    // The cable is no TUN interface.
    let mut config = stand.config(1, &json!({ "system": true, "name": "veth0" }));
    config["route"] = json!({ "final": "direct" });
    let mut ours = stand.start(&Subject::under_test(), left, &config).await?;
    ours.wait_log(|log| log.contains("open interface veth0"), Duration::from_secs(5)).await?;
    let near = Served::on(left, "127.0.0.1").await?;
    some(left, entry(), &near, "127.0.0.1", "another part of the program").await
}
