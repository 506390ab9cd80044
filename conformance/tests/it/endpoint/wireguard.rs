//! WireGuard in user space, with the reference on the other side: streams and datagrams through the tunnel both ways,
//! several peers, strangers, peers that come, go and move.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Target, Via,
        suite::{self, Naming, Origins},
    },
    ports,
    process::Running,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{net::UdpSocket, time::Instant};

/// A key pair.
#[derive(Clone)]
struct Keys {
    private: String,
    public: String,
}

fn keys() -> Result<Keys> {
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
struct End {
    keys: Keys,
    /// Last byte of its addresses in the tunnel.
    host: u8,
    entry: u16,
    port: u16,
}

impl End {
    fn new(host: u8) -> Result<Self> {
        let [entry, port] = ports::many();
        Ok(Self { keys: keys()?, host, entry, port })
    }

    fn socks(&self) -> Socks {
        Socks::v5(([127, 0, 0, 1], self.entry).into())
    }

    fn via(&self) -> Via {
        Via::from(self.socks())
    }

    fn peer(&self, secret: &str) -> Value {
        let host = self.host;
        json!({
            "address": "127.0.0.1", "port": self.port, "public_key": self.keys.public,
            "pre_shared_key": secret,
            "allowed_ips": [format!("10.9.0.{host}/32"), format!("fd00:9::{host}/128")],
        })
    }

    /// Clients reach 127.0.0.1 and ::1 of the end `to`: the address is replaced by the one in the tunnel, which that end
    /// takes for its own.
    fn config(&self, peers: &[Value], to: &Self, more: &Value) -> Value {
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
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Everything through the tunnel from the clients of `end`.
async fn all(end: &End, what: &str) -> Result<()> {
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

async fn start(subject: &Subject, config: &Value) -> Result<Running> {
    subject.start(config).await.with_context(|| subject.name().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_with_the_reference() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    for more in [json!({}), json!({ "mtu": 1280 })] {
        let config = ours.config(&[theirs.peer(SECRET)], &theirs, &more);
        let _ours = start(&Subject::under_test(), &config).await?;
        let config = theirs.config(&[ours.peer(SECRET)], &ours, &more);
        let _theirs = start(&Subject::Reference, &config).await?;
        all(&ours, "through us to the reference").await?;
        all(&theirs, "through the reference to us").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_is_met_again() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer("")], &theirs, &json!({}));
    let mut program = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer("")], &ours, &json!({}));
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr().into();
    for _ in 0..2 {
        let peer = start(&Subject::Reference, &config).await?;
        // The session that the peer has forgotten is found out by its silence.
        let end = Instant::now() + Duration::from_secs(60);
        while suite::tcp_ping_pong(&ours.via(), &echo).await.is_err() {
            ensure!(Instant::now() < end, "the tunnel stays dead: {}", program.log_tail());
        }
        drop(peer);
    }
    program.stop().await?;
    Ok(())
}

/// Puts a configuration in force, and waits until it is.
fn reload(program: &Running, config: &Value) -> Result<()> {
    write_config(program.dir(), config)?;
    program.ctl(&["reload"]).map(drop)
}

/// Whether a client of that end gets an answer soon.
async fn served(end: &End, echo: &Target) -> bool {
    let via = end.via();
    let asked = suite::tcp_ping_pong(&via, echo);
    matches!(tokio::time::timeout(Duration::from_secs(3), asked).await, Ok(Ok(())))
}

/// A third peer comes and goes by reload: the flow of the second one lives on, and the third one's key means nothing before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_change_by_reload() -> Result<()> {
    let (ours, second, third) = (End::new(1)?, End::new(2)?, End::new(3)?);
    let alone = ours.config(&[second.peer(SECRET)], &second, &json!({}));
    let both = ours.config(&[second.peer(SECRET), third.peer("")], &second, &json!({}));
    let program = start(&Subject::under_test(), &alone).await?;
    let _second =
        start(&Subject::Reference, &second.config(&[ours.peer(SECRET)], &ours, &json!({}))).await?;
    let _third =
        start(&Subject::Reference, &third.config(&[ours.peer("")], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flow = second.socks().connect(&echo.into()).await.context("a long flow")?;
    let mut beat = async || {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        flow.write_all(b"still here").await?;
        let mut back = [0; 10];
        flow.read_exact(&mut back).await.context("the long flow")?;
        ensure!(&back == b"still here");
        anyhow::Ok(())
    };
    beat().await?;
    ensure!(!served(&third, &echo.into()).await, "a peer that nobody configured is served");
    reload(&program, &both)?;
    beat().await?;
    let end = Instant::now() + Duration::from_secs(30);
    while suite::tcp_ping_pong(&third.via(), &echo.into()).await.is_err() {
        ensure!(Instant::now() < end, "the new peer is not served: {}", program.log_tail());
    }
    beat().await?;
    reload(&program, &alone)?;
    beat().await?;
    ensure!(!served(&third, &echo.into()).await, "a peer that was removed is served");
    beat().await?;
    Ok(())
}

/// The component is restarted while a flow goes through it, and nonsense is sent to its port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_outlive_a_restart_and_nonsense() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer(SECRET)], &theirs, &json!({}));
    let program = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer(SECRET)], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut out = ours.socks().connect(&echo.into()).await.context("out")?;
    let mut back = theirs.socks().connect(&echo.into()).await.context("in")?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for round in 0..5_u8 {
        for kind in 0..5_u8 {
            for len in [1, 4, 31, 32, 64, 92, 148, 149, 1400] {
                let mut message = vec![round ^ 0x5a; len];
                message[0] = kind;
                socket.send_to(&message, ("127.0.0.1", ours.port)).await?;
            }
        }
        program.ctl(&["restart", "endpoint/tunnel"])?;
        for flow in [&mut out, &mut back] {
            flow.write_all(b"still here").await?;
            let mut got = [0; 10];
            let read = tokio::time::timeout(Duration::from_secs(10), flow.read_exact(&mut got));
            read.await.context("silent")?.context("a flow ended")?;
        }
        suite::tcp_ping_pong(&ours.via(), &echo.into()).await.context("a new flow out")?;
        suite::tcp_ping_pong(&theirs.via(), &echo.into()).await.context("a new flow in")?;
    }
    Ok(())
}

/// A hundred flows at once in each direction, bulk among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_flows_share_a_tunnel() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer("")], &theirs, &json!({}));
    let _ours = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer("")], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flows = tokio::task::JoinSet::new();
    for n in 0..200_u64 {
        let via = if n % 2 == 0 { ours.via() } else { theirs.via() };
        flows.spawn(async move {
            let len = if n % 20 < 2 { 1_000_000 } else { 20_000 };
            suite::tcp_bulk(&via, &echo.into(), len).await.with_context(|| format!("flow {n}"))
        });
    }
    while let Some(done) = flows.join_next().await {
        done??;
    }
    Ok(())
}
