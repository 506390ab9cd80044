//! What the tests of the WireGuard endpoint share: ends of a tunnel, and a network between them whose weather can be
//! chosen.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::{
        Socks, Target, Via,
        suite::{self, Naming, Origins},
    },
    ports,
    process::Running,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinHandle,
};

/// A key pair.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) private: String,
    pub(super) public: String,
}

pub(super) fn keys() -> Result<Keys> {
    let output =
        Subject::under_test().run_cli(&std::env::temp_dir(), ["generate", "wg-keypair"], &[])?;
    let text = String::from_utf8(output.stdout)?;
    let find = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|key| key.trim().to_owned()).with_context(|| format!("no {name} in {text:?}"))
    };
    Ok(Keys { private: find("PrivateKey:")?, public: find("PublicKey:")? })
}

/// One end of a tunnel: a program with an entry for clients.
pub(super) struct End {
    pub(super) keys: Keys,
    /// Last byte of its addresses in the tunnel.
    pub(super) host: u8,
    pub(super) entry: u16,
    pub(super) port: u16,
}

impl End {
    pub(super) fn new(host: u8) -> Result<Self> {
        let [entry, port] = ports::many();
        Ok(Self { keys: keys()?, host, entry, port })
    }

    pub(super) fn socks(&self) -> Socks {
        Socks::v5(([127, 0, 0, 1], self.entry).into())
    }

    pub(super) fn via(&self) -> Via {
        Via::from(self.socks())
    }

    pub(super) fn peer(&self, secret: &str) -> Value {
        let host = self.host;
        json!({
            "address": "127.0.0.1", "port": self.port, "public_key": self.keys.public,
            "pre_shared_key": secret,
            "allowed_ips": [format!("10.9.0.{host}/32"), format!("fd00:9::{host}/128")],
        })
    }

    /// Clients reach 127.0.0.1 and ::1 of the end `to`: the address is replaced by the one in the tunnel, which that end
    /// takes for its own.
    pub(super) fn config(&self, peers: &[Value], to: &Self, more: &Value) -> Value {
        let host = self.host;
        let mut endpoint = json!({
            "type": "wireguard", "tag": "tunnel", "private_key": self.keys.private, "listen_port": self.port,
            "address": [format!("10.9.0.{host}/32"), format!("fd00:9::{host}/128")], "peers": peers,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            endpoint[key] = value.clone();
        }
        let toward = |ip: &str, address: String| json!({ "inbound": "in", "ip_cidr": ip, "outbound": "tunnel", "override_address": address });
        json!({
            "log": { "level": "debug" },
            "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": self.entry }],
            "endpoints": [endpoint],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": { "rules": [
                toward("127.0.0.1/32", format!("10.9.0.{}", to.host)),
                toward("::1/128", format!("fd00:9::{}", to.host)),
            ], "final": "direct" },
        })
    }
}

/// A secret that both ends share beside their keys.
pub(super) const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Everything through the tunnel from the clients of `end`.
pub(super) async fn all(end: &End, what: &str) -> Result<()> {
    let via = end.via();
    for origins in [Origins::v4().await?, Origins::v6().await?] {
        let name = || format!("{what}, {}", origins.echo.addr());
        suite::tcp(&via, &origins, Naming::Address).await.with_context(name)?;
        suite::udp(&via, &origins, Naming::Address).await.with_context(name)?;
        let echo = origins.udp.addr().into();
        suite::udp_size(&via, &echo, 4096).await.with_context(name)?;
    }
    Ok(())
}

pub(super) async fn start(subject: &Subject, config: &Value) -> Result<Running> {
    subject.start(config).await.with_context(|| subject.name().to_owned())
}

/// Puts a configuration in force, and waits until it is.
pub(super) fn reload(program: &Running, config: &Value) -> Result<()> {
    write_config(program.dir(), config)?;
    program.ctl(&["reload"]).map(drop)
}

/// Whether a client of that end gets an answer soon.
pub(super) async fn served(end: &End, echo: &Target) -> bool {
    let via = end.via();
    let asked = suite::tcp_ping_pong(&via, echo);
    matches!(tokio::time::timeout(Duration::from_secs(3), asked).await, Ok(Ok(())))
}

/// A stream that stays open, over which something is said now and then.
pub(super) struct Flow {
    name: &'static str,
    stream: TcpStream,
    said: u64,
}

impl Flow {
    /// Opens one from the clients of an end to an echo server.
    pub(super) async fn open(name: &'static str, end: &End, echo: SocketAddr) -> Result<Self> {
        let stream = end.via().tcp(&echo.into()).await.context(name)?;
        Ok(Self { name, stream, said: 0 })
    }

    /// Says something and hears it back, in time even on a busy machine.
    pub(super) async fn beat(&mut self) -> Result<()> {
        self.beat_within(Duration::from_secs(30)).await
    }

    /// Says something and hears it back in time.
    pub(super) async fn beat_within(&mut self, limit: Duration) -> Result<()> {
        self.said += 1;
        let word = self.said.to_be_bytes();
        let said = async {
            self.stream.write_all(&word).await?;
            let mut heard = [0; 8];
            self.stream.read_exact(&mut heard).await?;
            ensure!(heard == word, "other bytes came back");
            Ok(())
        };
        let said = tokio::time::timeout(limit, said).await;
        said.map_err(|_| anyhow::anyhow!("silence for {limit:?}"))
            .flatten()
            .with_context(|| format!("{}, the {}th time", self.name, self.said))
    }
}

/// What a network does to datagrams, in thousandths.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    /// Lost.
    pub(super) lost: u64,
    /// Held back for some milliseconds, so that others overtake them.
    pub(super) late: u64,
}

/// A network between two ends: the near one sends to [`Relay::port`], the far one sees an address that can change.
pub(super) struct Relay {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    near_port: u16,
}

struct Shared {
    weather: Weather,
    /// Where the far end listens.
    to: SocketAddr,
    /// Where the near end was last.
    from: Mutex<Option<SocketAddr>>,
    /// The socket that the near end sees, and the one that the far end sees.
    sockets: Mutex<[Arc<UdpSocket>; 2]>,
    /// Everything that passed, up to [`KEPT`] messages, and all handshakes.
    seen: Mutex<Vec<(Side, Vec<u8>)>>,
    random: AtomicU32,
}

/// Messages that a relay remembers.
const KEPT: usize = 4000;

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The end that sends to the relay's port.
    Near,
    /// The end that the relay sends to.
    Far,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn socket() -> Result<Arc<UdpSocket>> {
    Ok(Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a relay's socket")?))
}

impl Relay {
    /// A relay to an end on loopback.
    pub(super) async fn to(port: u16, weather: Weather) -> Result<Self> {
        let (near, far) = (socket().await?, socket().await?);
        let near_port = near.local_addr()?.port();
        let shared = Arc::new(Shared {
            weather,
            to: (Ipv4Addr::LOCALHOST, port).into(),
            from: Mutex::default(),
            sockets: Mutex::new([near.clone(), far.clone()]),
            seen: Mutex::default(),
            random: AtomicU32::new(0x2545_f491),
        });
        let tasks = [(near, Side::Near), (far, Side::Far)]
            .map(|(socket, side)| tokio::spawn(shared.clone().carry(socket, side)));
        Ok(Self { shared, tasks: Mutex::new(tasks.into()), near_port })
    }

    /// The port that the near end sends to.
    pub(super) fn port(&self) -> u16 {
        self.near_port
    }

    /// Gives the far end (`Side::Far`) another address of the near end to see, or the near end another one of the far
    /// end. The old one is dead for what comes back.
    pub(super) async fn moves(&self, seen_by: Side) -> Result<()> {
        let next = socket().await?;
        let at = usize::from(seen_by == Side::Far);
        let mut sockets = lock(&self.shared.sockets);
        sockets[at] = next.clone();
        drop(sockets);
        let mut tasks = lock(&self.tasks);
        let next = tokio::spawn(self.shared.clone().carry(next, seen_by));
        std::mem::replace(&mut tasks[at], next).abort();
        Ok(())
    }

    /// Sends a message as if it came from an end.
    pub(super) async fn say(&self, as_if: Side, message: &[u8]) -> Result<()> {
        let (out, to) = self.shared.way(as_if);
        if let Some(to) = to {
            out.send_to(message, to).await?;
        }
        Ok(())
    }

    /// What has passed: who said it, and the bytes.
    pub(super) fn seen(&self) -> Vec<(Side, Vec<u8>)> {
        lock(&self.shared.seen).clone()
    }
}

impl Shared {
    /// A number below a thousand; the same row of them each time.
    fn thousandth(&self) -> u64 {
        let step = |x: u32| {
            let x = x ^ x << 13;
            let x = x ^ x >> 17;
            Some(x ^ x << 5)
        };
        let random = self.random.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        u64::from(random.unwrap_or_default()) % 1000
    }

    fn note(&self, side: Side, message: &[u8]) {
        let mut seen = lock(&self.seen);
        // Those that make keys are few.
        if seen.len() < KEPT || message.first().is_some_and(|kind| *kind < 4) {
            seen.push((side, message.to_vec()));
        }
    }

    /// The socket that what an end says leaves from, and where it goes.
    fn way(&self, side: Side) -> (Arc<UdpSocket>, Option<SocketAddr>) {
        let [near, far] = lock(&self.sockets).clone();
        match side {
            Side::Near => (far, Some(self.to)),
            Side::Far => (near, *lock(&self.from)),
        }
    }

    /// Carries what comes from the end that `socket` faces.
    async fn carry(self: Arc<Self>, socket: Arc<UdpSocket>, side: Side) {
        let mut buf = vec![0; 65_536];
        loop {
            // An ICMP error of something sent before shows up here and concerns nobody.
            let Ok((len, from)) = socket.recv_from(&mut buf).await else { continue };
            self.note(side, &buf[..len]);
            if side == Side::Near {
                *lock(&self.from) = Some(from);
            }
            let (out, Some(to)) = self.way(side) else { continue };
            let fate = self.thousandth();
            let Weather { lost, late } = self.weather;
            if fate < lost {
                continue;
            }
            if fate < lost + late {
                let message = buf[..len].to_vec();
                let held = Duration::from_millis(1 + fate % 5);
                tokio::spawn(async move {
                    tokio::time::sleep(held).await;
                    let _ = out.send_to(&message, to).await;
                });
            } else {
                let _ = out.send_to(&buf[..len], to).await;
            }
        }
    }
}

/// A peer as seen through a relay.
pub(super) fn through(relay: &Relay, mut peer: Value) -> Value {
    peer["port"] = relay.port().into();
    peer
}

/// A peer of which only its key is known: it has to come.
pub(super) fn unknown(mut peer: Value) -> Value {
    for field in ["address", "port"] {
        peer.as_object_mut().map(|peer| peer.remove(field));
    }
    peer
}

/// What a member of a peer or an endpoint is to be.
pub(super) fn with(mut value: Value, more: &Value) -> Value {
    for (key, more) in more.as_object().into_iter().flatten() {
        value[key] = more.clone();
    }
    value
}

/// Whether what takes long was asked for; says so if not.
pub(super) fn long(what: &str) -> bool {
    let asked = std::env::var("CONFORMANCE_WIREGUARD").is_ok_and(|value| value == "long");
    if !asked {
        loud::not_run(what, "takes minutes; ask with CONFORMANCE_WIREGUARD=long");
    }
    asked
}
