//! Handshakes that are under way while users change: who is not a user any more when his request is whole is not served, and
//! everybody else is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{Naming, Origins},
        within,
    },
    ports,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::stage::Ports;

const STEP: Duration = Duration::from_secs(10);
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const ANN: &str = "YW5uYW5uYW5uYW5uYW5uYQ==";
const BOB: &str = "Ym9iYm9iYm9iYm9iYm9iYg==";
const OTHER: &str = "b3RoZXJvdGhlcm90aGVybw==";

/// A protocol.
struct Kind {
    inbound: Value,
    outbound: Value,
    /// What a user's secret is called.
    secret: &'static str,
    /// So much of a request is sent before users change: whose it is can be told by then, or is asked of the users of then.
    part: usize,
}

fn kinds() -> [Kind; 5] {
    let kind = |inbound, outbound, secret, part| Kind { inbound, outbound, secret, part };
    let shadowsocks = |method: &str, password: &str| {
        let inbound = json!({ "type": "shadowsocks", "method": method, "password": password });
        (inbound, json!({ "type": "shadowsocks", "method": method }))
    };
    let (old, old_client) = shadowsocks("aes-128-gcm", "");
    let (new, new_client) = shadowsocks("2022-blake3-aes-128-gcm", KEY);
    [
        kind(json!({ "type": "trojan" }), json!({ "type": "trojan" }), "password", 57),
        kind(json!({ "type": "vless" }), json!({ "type": "vless" }), "uuid", 18),
        kind(
            json!({ "type": "vmess" }),
            json!({ "type": "vmess", "security": "aes-128-gcm" }),
            "uuid",
            40,
        ),
        kind(old, old_client, "password", 20),
        kind(new, new_client, "password", 60),
    ]
}

impl Kind {
    fn named(&self, name: &str, secret: &str) -> Value {
        json!({ "name": name, self.secret: secret })
    }

    fn server(&self, port: u16, users: &[Value], more: bool) -> Value {
        let mut inbound = self.inbound.clone();
        inbound["tag"] = json!("in");
        inbound["listen"] = json!("127.0.0.1");
        inbound["listen_port"] = json!(port);
        inbound["users"] = json!(users);
        if more {
            // Takes another instance.
            inbound["multiplex"] = json!({ "enabled": true });
        }
        json!({ "inbounds": [inbound] })
    }

    fn client(&self, tag: &str, port: u16, secret: &str) -> Value {
        let mut outbound = self.outbound.clone();
        outbound["tag"] = json!(tag);
        outbound["server"] = json!("127.0.0.1");
        outbound["server_port"] = json!(port);
        let new = outbound["method"] == json!("2022-blake3-aes-128-gcm");
        outbound[self.secret] = if new { json!(format!("{KEY}:{secret}")) } else { json!(secret) };
        outbound
    }
}

/// Passes the first `part` bytes of each connection on, and the rest when it is opened.
struct Gate {
    port: u16,
    held: mpsc::UnboundedReceiver<()>,
    open: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Gate {
    async fn new(to: u16, part: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (told, held) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (told, opened) = (told.clone(), opened.clone());
                all.spawn(async move {
                    // A side that has gone needs nothing more.
                    let _ = pass(client, to, part, told, opened).await;
                });
            }
        });
        Ok(Self { port, held, open, _task: task })
    }
}

async fn pass(
    mut client: TcpStream,
    to: u16,
    part: usize,
    told: mpsc::UnboundedSender<()>,
    mut opened: watch::Receiver<bool>,
) -> Result<()> {
    let mut server = TcpStream::connect(Ports::v4(to)).await?;
    server.set_nodelay(true)?;
    let mut first = vec![0; part];
    client.read_exact(&mut first).await?;
    server.write_all(&first).await?;
    // It has arrived, and was read.
    tokio::time::sleep(Duration::from_millis(100)).await;
    told.send(())?;
    opened.wait_for(|open| *open).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// What happens to ann.
#[derive(Clone, Copy, Debug)]
enum Change {
    Removed,
    OtherSecret,
    /// By another instance of the inbound.
    RemovedByReplacement,
}

async fn one(kind: &Kind, change: Change) -> Result<()> {
    let origins = Origins::v4().await?;
    let [server, ann, bob] = ports::many();
    let both = [kind.named("ann", ANN), kind.named("bob", BOB)];
    let back = Subject::under_test().start(&kind.server(server, &both, false)).await?;
    let mut gate = Gate::new(server, kind.part).await?;
    let entry = |(name, port)| json!({ "type": "mixed", "tag": name, "listen": "127.0.0.1", "listen_port": port });
    let entries = [("ann", ann), ("bob", bob)].map(entry);
    let _front = Subject::under_test()
        .start(&json!({
            "inbounds": entries,
            "outbounds": [kind.client("to ann", gate.port, ANN), kind.client("to bob", gate.port, BOB)],
            "route": { "rules": [
                { "inbound": "ann", "outbound": "to ann" }, { "inbound": "bob", "outbound": "to bob" },
            ] },
        }))
        .await?;
    let mut streams = Vec::new();
    for port in [ann, bob] {
        let via = Via::from(Socks::v5(Ports::v4(port)));
        let mut stream = via.tcp(&Naming::Address.target(origins.echo.addr())).await?;
        stream.write_all(b"hello").await?;
        streams.push(stream);
        within("a request under way", STEP, async { gate.held.recv().await.context("gate") })
            .await?;
    }
    let users = match change {
        Change::OtherSecret => vec![kind.named("ann", OTHER), kind.named("bob", BOB)],
        Change::Removed | Change::RemovedByReplacement => vec![kind.named("bob", BOB)],
    };
    let more = matches!(change, Change::RemovedByReplacement);
    write_config(back.dir(), &kind.server(server, &users, more))?;
    back.ctl(&["reload"])?;
    gate.open.send_replace(true);
    let mut answer = [0; 5];
    within("bob's answer", STEP, streams[1].read_exact(&mut answer)).await.context("bob")?;
    ensure!(&answer == b"hello");
    let end = within("the end of ann's", STEP, async {
        Ok::<_, anyhow::Error>(streams[0].read(&mut answer).await)
    });
    let end = end.await?;
    ensure!(matches!(end, Ok(0) | Err(_)), "ann is served: {end:?}\n{}", back.log_tail());
    let seen = origins.echo.counters().accepted();
    ensure!(seen == 1, "{seen} connections were made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_during_a_handshake_is_not_served() -> Result<()> {
    let mut all = JoinSet::new();
    for kind in kinds() {
        all.spawn(async move {
            for change in [Change::Removed, Change::OtherSecret, Change::RemovedByReplacement] {
                let what = || format!("{}: {change:?}", kind.outbound);
                one(&kind, change).await.with_context(what)?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    Ok(())
}
