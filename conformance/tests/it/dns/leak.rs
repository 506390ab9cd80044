//! Where queries go, and that they go nowhere else: rules send names under `secret.test` to one server, and neither
//! reloads nor crashes nor a server that is gone let another one hear of them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::netns::{self, Lab};
use crosspoint_conformance::process::{Launch, Running};
use crosspoint_conformance::subject::{Subject, write_config};
use crosspoint_conformance::{loud, ports};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::sync::oneshot;

use super::client::Ask;
use super::origin::{Origin, Seen};

const RELOADS: u32 = 20;
const CRASHES: u32 = 5;

/// The daemon with a DNS server that fails on order.
fn faulty() -> Subject {
    Subject::Crosspoint(Some(env!("CARGO_BIN_EXE_crosspoint-faulty").into()))
}

/// Where things are.
#[derive(Clone, Copy)]
struct Places {
    /// The only server that may hear of `secret.test`.
    chosen: SocketAddr,
    /// The server of everything else.
    other: SocketAddr,
    /// The DNS inbound.
    inbound: u16,
    /// An inbound whose connections go to a secret name.
    direct: u16,
}

/// Generation `n` of the configuration: what changes from one to the next touches rules, servers and inbounds.
fn config(places: Places, n: u32) -> Value {
    let server = |tag: &str, at: SocketAddr, marker: u32| {
        json!({ "type": "udp", "tag": tag, "server": at.ip(), "server_port": at.port(),
                "connect_timeout": format!("{}s", 5 + marker) })
    };
    let mut rules = vec![
        json!({ "domain_suffix": ".guarded.test", "server": "guard" }),
        json!({ "domain_suffix": ".secret.test", "server": "chosen" }),
    ];
    for at in 0..n % 3 {
        rules.insert(0, json!({ "domain": format!("filler{at}.test"), "server": "other" }));
    }
    json!({
        "log": { "level": "debug" },
        "dns": {
            "servers": [
                server("other", places.other, n % 2),
                server("chosen", places.chosen, n / 2 % 2),
                { "type": "fault", "tag": "guard", "trigger": "guard.sock" },
            ],
            "rules": rules,
            "final": "other",
            "disable_cache": n % 5 == 4,
        },
        "inbounds": [
            { "type": "dns", "tag": "dns", "listen": "127.0.0.1", "listen_port": places.inbound,
              "tcp_keep_alive": format!("{}s", 100 + n / 4) },
            { "type": "direct", "tag": "direct", "listen": "127.0.0.1",
              "listen_port": places.direct, "network": "tcp",
              "override_address": "dialled.secret.test", "override_port": 9 },
        ],
        "outbounds": [{ "type": "direct", "tag": "direct", "connect_timeout": "1s" }],
        "crosspoint": { "supervision": { "backoff_min": "50ms", "backoff_max": "100ms",
            "max_restarts": 100 } },
    })
}

fn launch(places: Places) -> Result<Launch> {
    faulty().launch(&config(places, 0))
}

async fn apply(daemon: &Running, config: &Value) -> Result<()> {
    write_config(daemon.dir(), config)?;
    daemon.ctl(&["reload"]).with_context(|| daemon.log_tail())?;
    Ok(())
}

/// What clients were told.
#[derive(Default)]
struct Told {
    secret: AtomicU32,
    guarded: AtomicU32,
    failed: AtomicU32,
}

/// Asks for ever new names until told to stop.
async fn ask_on(places: Places, told: Arc<Told>, stop: Arc<AtomicBool>) -> Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], places.inbound));
    let wait = Duration::from_secs(11);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let tcp = if n % 4 == 0 { "tcp" } else { "" };
        let secret = Ask::parse(&format!("a.n{n}.secret.test A {tcp}"))?;
        let guarded = Ask::parse(&format!("a.n{n}.guarded.test A {tcp}"))?;
        let plain = Ask::parse(&format!("a.n{n}.plain.test A"))?;
        let (secret, guarded, plain) = tokio::try_join!(
            secret.at(server, wait),
            guarded.at(server, wait),
            plain.at(server, wait)
        )?;
        ensure!(plain.starts_with("NoError") || plain.starts_with("ServFail"), "{plain}");
        for (answer, count, right) in
            [(secret, &told.secret, "192.0.2.1"), (guarded, &told.guarded, "127.0.0.1")]
        {
            if answer.contains(right) {
                count.fetch_add(1, Ordering::Relaxed);
            } else {
                ensure!(!answer.contains(" A "), "an answer of somebody else: {answer}");
                told.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if n % 10 == 0 {
            // A connection of which an outbound resolves the name.
            drop(TcpStream::connect(("127.0.0.1", places.direct)).await);
        }
    }
    Ok(())
}

/// Reloads, crashes, restarts while clients ask. The client's part runs where the daemon is.
async fn trouble(mut daemon: Running, places: Places) -> Result<String> {
    let (told, stop) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
    let clients = tokio::spawn(ask_on(places, told.clone(), stop.clone()));
    for n in 1..=RELOADS {
        apply(&daemon, &config(places, n)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..CRASHES {
        order(&daemon.dir().join("guard.sock"), "panic").await?;
        daemon.ctl(&["restart", "dns/chosen"]).ok();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A configuration without the server that rules name is refused as a whole.
    let mut broken = config(places, RELOADS);
    if let Some(servers) = broken["dns"]["servers"].as_array_mut() {
        servers.retain(|server| server["tag"] != "chosen");
    }
    write_config(daemon.dir(), &broken)?;
    ensure!(daemon.ctl(&["reload"]).is_err(), "a rule without its server was accepted");
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    clients.await??;
    ensure!(daemon.try_exit().is_none(), "the daemon ended:\n{}", daemon.log_tail());
    let (secret, guarded, failed) = (
        told.secret.load(Ordering::Relaxed),
        told.guarded.load(Ordering::Relaxed),
        told.failed.load(Ordering::Relaxed),
    );
    ensure!(secret > 50 && guarded > 20, "{secret} secret and {guarded} guarded names answered");
    // Only a crash may cost an answer.
    ensure!(failed < secret / 2, "{failed} answers failed of {secret} and {guarded}");
    Ok(format!("{secret} secret and {guarded} guarded names answered, {failed} failed"))
}

/// Orders a component to fail; it may be failing already.
async fn order(path: &Path, what: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    let socket = UnixDatagram::unbound()?;
    while socket.send_to(what.as_bytes(), path).await.is_err() {
        ensure!(Instant::now() < end, "nobody takes orders at {}", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Names that only one server may have heard of.
fn is_secret(name: &str) -> bool {
    name.contains("secret") || name.contains("guarded")
}

fn judge(chosen: &[Seen], other: &[Seen]) -> Result<()> {
    ensure!(!chosen.is_empty() && !other.is_empty(), "a server was never asked");
    if let Some(leak) = other.iter().find(|seen| is_secret(&seen.name)) {
        bail!("the wrong server was asked: {}", leak.text);
    }
    if let Some(wrong) = chosen.iter().find(|seen| !seen.name.contains("secret")) {
        bail!("the chosen server was asked for others: {}", wrong.text);
    }
    Ok(())
}

#[tokio::test]
async fn no_other_server_hears_of_a_name() -> Result<()> {
    let (chosen, other) = (Origin::start("chosen").await?, Origin::start("other").await?);
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let [inbound, direct] = ports::many();
    let (chosen_at, other_at) = (local(chosen.port()), local(other.port()));
    let places = Places { chosen: chosen_at, other: other_at, inbound, direct };
    let daemon = launch(places)?.start().await?;
    let said = trouble(daemon, places).await?;
    judge(&chosen.seen(), &other.seen())?;
    loud::line(&format!("LEAKS none on loopback: {said}"));
    Ok(())
}

#[tokio::test]
async fn no_packet_carries_a_name_elsewhere() -> Result<()> {
    if !netns::available("DNS packets in a namespace") {
        return Ok(());
    }
    let lab = Lab::new()?;
    let places = Places {
        chosen: SocketAddr::new(lab.right.v4(), 5301),
        other: SocketAddr::new(lab.right.v4(), 53),
        inbound: 5300,
        direct: 5309,
    };
    let (ready, started) = oneshot::channel();
    let (stop_servers, stopped) = oneshot::channel::<()>();
    let servers = lab.right.run(move || async move {
        let chosen = Origin::bind("chosen", places.chosen).await?;
        let other = Origin::bind("other", places.other).await?;
        ready.send(()).ok().context("nobody waits")?;
        let _ = stopped.await;
        Ok((chosen.seen(), other.seen()))
    })?;
    started.await?;
    let done = Arc::new(AtomicBool::new(false));
    let watch = done.clone();
    let capture = lab.left.run(move || async move { capture(places, &watch).await })?;
    let daemon = launch(places)?.netns(&lab.left).start().await?;
    let result = lab.left.within(move || trouble(daemon, places)).await;
    done.store(true, Ordering::Relaxed);
    drop(stop_servers);
    let join = |what: &'static str| move |_| anyhow::anyhow!("{what} panicked");
    let (chosen, other) = servers.join().map_err(join("servers"))??;
    let packets = capture.join().map_err(join("capture"))??;
    let said = result?;
    judge(&chosen, &other)?;
    ensure!(packets > 100, "only {packets} packets were seen");
    loud::line(&format!("LEAKS none in {packets} packets with such names: {said}"));
    Ok(())
}

/// Watches every packet of the namespace until told to stop. Returns how many carried a secret name, all of them where
/// they belong.
async fn capture(places: Places, done: &AtomicBool) -> Result<u64> {
    /// ETH_P_ALL, in network order.
    const ALL: u32 = 0x0003_u16.to_be() as u32;
    let protocol = std::num::NonZeroU32::new(ALL).map(Protocol::from_raw);
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        protocol,
    )
    .context("open a packet socket")?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 16 << 20).ok();
    let mut buffer = vec![0; 70_000];
    let mut packets = 0;
    loop {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _)) => {
                let frame = &buffer[..len.min(buffer.len())];
                if !carries_secret(frame) {
                    continue;
                }
                let Some((source, target)) = ends(frame) else {
                    bail!("a secret name in a frame that is no IP packet: {frame:02x?}");
                };
                let local = |addr: SocketAddr| {
                    addr.ip().is_loopback()
                        && [places.inbound, places.direct].contains(&addr.port())
                };
                let right =
                    [source, target].contains(&places.chosen) || local(source) || local(target);
                ensure!(right, "a secret name went from {source} to {target}");
                packets += 1;
            }
            Err(rustix::io::Errno::AGAIN) if done.load(Ordering::Relaxed) => return Ok(packets),
            Err(rustix::io::Errno::AGAIN) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a frame holds a label of names that are secret.
fn carries_secret(frame: &[u8]) -> bool {
    [&b"\x06secret"[..], b"\x07guarded"]
        .iter()
        .any(|label| frame.windows(label.len()).any(|window| window.eq_ignore_ascii_case(label)))
}

/// Source and destination of an IP packet in an Ethernet frame.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = frame.get(14..)?;
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 15) * 4;
            let ip = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
            Some(((ip(12)?, port(header)?).into(), (ip(16)?, port(header + 2)?).into()))
        }
        6 => {
            let ip = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            Some(((ip(8)?, port(40)?).into(), (ip(24)?, port(42)?).into()))
        }
        _ => None,
    }
}
