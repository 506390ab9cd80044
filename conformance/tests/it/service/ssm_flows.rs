//! Users that come, change and go while the flows of others run; reloads and restarts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{
    net::{Socks, Target, Via, origin::Origin, suite},
    ports,
    subject::Subject,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::rest::{KEYS, add, clients, expect, managed, moved};
use crate::live::stage::{Daemon, until};

/// Flows of somebody whom nothing of it concerns.
struct Bystanders {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    broken: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bystanders {
    async fn start(via: &Via, echo: &Target, count: usize) -> Result<Self> {
        let (stop, rounds) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let broken = Arc::<Mutex<Vec<String>>>::default();
        let mut tasks = Vec::new();
        for number in 0..count {
            let stream = via.tcp(echo).await.with_context(|| format!("flow {number}"))?;
            let (stop, rounds, broken) = (stop.clone(), rounds.clone(), broken.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = echoes(stream, number as u64, &stop, &rounds).await {
                    broken.lock().unwrap().push(format!("{number}: {error:#}"));
                }
            }));
        }
        Ok(Self { stop, rounds, broken, tasks })
    }

    fn flawless(&self) -> Result<()> {
        let broken = self.broken.lock().unwrap();
        ensure!(
            broken.is_empty(),
            "{} flows broke: {:?}",
            broken.len(),
            &broken[..broken.len().min(3)]
        );
        Ok(())
    }

    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        let broken = std::mem::take(&mut *self.broken.lock().unwrap());
        ensure!(
            broken.is_empty(),
            "{} flows broke: {:?}",
            broken.len(),
            &broken[..broken.len().min(3)]
        );
        Ok(self.rounds.load(Ordering::Relaxed))
    }
}

/// A question and its echo, now and then.
async fn echoes(
    mut stream: TcpStream,
    number: u64,
    stop: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<()> {
    for round in 0.. {
        let said = [number.to_be_bytes(), u64::to_be_bytes(round)].concat();
        stream.write_all(&said).await.context("write")?;
        let mut heard = [0; 16];
        let wait = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut heard));
        wait.await.context("silent for 20 s")?.context("read")?;
        ensure!(said == heard, "wrong bytes");
        rounds.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200 + number % 300)).await;
    }
    Ok(())
}

fn socks(port: u16) -> Via {
    Via::from(Socks::v5(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// Whether a stream was ended by the other side.
async fn is_cut(mut stream: TcpStream) -> bool {
    let mut byte = [0; 1];
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte));
    !matches!(end.await, Err(_) | Ok(Ok(1..)))
}

const FLOWS: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_change_while_a_thousand_flows_of_others_run() -> Result<()> {
    let [api, server, ann, bob] = ports::many();
    let daemon = Daemon::start(&managed(api, server)).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let to = Target::from(echo.addr());
    add(api, "bob", KEYS[1]).await?;
    let users = [(ann, KEYS[0]), (bob, KEYS[1])];
    let _clients = Subject::under_test().start(&clients(server, &users)).await?;
    let flows = Bystanders::start(&socks(bob), &to, FLOWS).await?;
    ensure!(suite::tcp_ping_pong(&socks(ann), &to).await.is_err(), "a stranger is served");
    for round in 0..20 {
        add(api, "ann", KEYS[0]).await?;
        suite::tcp_ping_pong(&socks(ann), &to).await.context("a new user")?;
        let held = socks(ann).tcp(&to).await?;
        until("the flow is known", Duration::from_secs(5), async || {
            moved(api, "ann").await.is_ok_and(|moved| moved[4] == 2)
        })
        .await?;
        if round % 2 == 0 {
            let body = json!({ "uPSK": KEYS[2] }).to_string();
            expect(api, "PUT", "/server/v1/users/ann", &body, 204).await?;
            ensure!(suite::tcp_ping_pong(&socks(ann), &to).await.is_err(), "an old key is served");
        } else {
            add(api, &format!("extra{round}"), KEYS[2]).await?;
            expect(api, "DELETE", "/server/v1/users/ann", "", 204).await?;
        }
        if !is_cut(held).await {
            bail!("a flow outlived its user in round {round}: {}", daemon.running.log_tail());
        }
        if round % 2 == 0 {
            expect(api, "DELETE", "/server/v1/users/ann", "", 204).await?;
        }
        flows.flawless()?;
    }
    let rounds = flows.end().await?;
    let sums = moved(api, "bob").await?;
    ensure!(sums[4] == FLOWS as u64, "{sums:?}");
    ensure!(sums[0] == rounds * 16 && sums[1] == rounds * 16, "{sums:?}, {rounds} rounds");
    println!("{FLOWS} flows, {rounds} echoes, 60 changes of users, none lost");
    drop(daemon);
    Ok(())
}

/// Reloads, restarts of the inbound and of the service: the users are still there, and so are their flows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_outlive_reloads_and_restarts() -> Result<()> {
    let [api, server, ann] = ports::many();
    let mut config = managed(api, server);
    let daemon = Daemon::start(&config).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let to = Target::from(echo.addr());
    add(api, "ann", KEYS[0]).await?;
    let _clients = Subject::under_test().start(&clients(server, &[(ann, KEYS[0])])).await?;
    let flows = Bystanders::start(&socks(ann), &to, 20).await?;
    let served = async |what: &str| {
        suite::tcp_ping_pong(&socks(ann), &to).await.with_context(|| what.to_owned())?;
        expect(api, "GET", "/server/v1/users/ann", "", 200).await?;
        flows.flawless().with_context(|| what.to_owned())
    };
    served("at start").await?;
    for id in ["inbound/ss", "service/api"] {
        let request = json!({ "v": 1, "method": "restart", "component": id });
        let response = daemon.call(request).await?;
        ensure!(response["ok"] == true, "{response}");
        served(&format!("after a restart of {id}")).await?;
    }
    config["log"]["level"] = json!("info");
    daemon.reload_ok(&config).await?;
    served("after a reload").await?;
    config["inbounds"][0]["tcp_keep_alive"] = json!("77s");
    daemon.reload_ok(&config).await?;
    served("after a reload that replaces the inbound").await?;
    config["services"][0]["tcp_keep_alive"] = json!("77s");
    daemon.reload_ok(&config).await?;
    served("after a reload that replaces the service").await?;
    add(api, "bob", KEYS[1]).await?;
    expect(api, "DELETE", "/server/v1/users/bob", "", 204).await?;
    let before = moved(api, "ann").await?;
    ensure!(before[4] >= 20 + 6, "{before:?}");
    flows.end().await?;

    // Users that nobody manages any more are gone.
    let held = socks(ann).tcp(&to).await?;
    until("the flow is known", Duration::from_secs(5), async || {
        moved(api, "ann").await.is_ok_and(|moved| moved[4] > before[4])
    })
    .await?;
    config["services"] = json!([]);
    daemon.reload_ok(&config).await?;
    ensure!(is_cut(held).await, "a flow outlived the service");
    ensure!(suite::tcp_ping_pong(&socks(ann), &to).await.is_err(), "served without a service");
    Ok(())
}

/// Beyond the reference: managed users beside those of the configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managed_users_stand_beside_configured_ones() -> Result<()> {
    let [api, server, ann, bob] = ports::many();
    let mut config = managed(api, server);
    config["inbounds"][0]["managed"] = json!(false);
    config["inbounds"][0]["users"] = json!([{ "name": "bob", "password": KEYS[1] }]);
    let _daemon = Daemon::start(&config).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let to = Target::from(echo.addr());
    let users = [(ann, KEYS[0]), (bob, KEYS[1])];
    let _clients = Subject::under_test().start(&clients(server, &users)).await?;
    add(api, "ann", KEYS[0]).await?;
    let taken = json!({ "username": "bob", "uPSK": KEYS[2] }).to_string();
    expect(api, "POST", "/server/v1/users", &taken, 400).await?;
    for port in [ann, bob] {
        suite::tcp_ping_pong(&socks(port), &to).await?;
    }
    expect(api, "DELETE", "/server/v1/users/ann", "", 204).await?;
    ensure!(suite::tcp_ping_pong(&socks(ann), &to).await.is_err(), "a deleted user is served");
    suite::tcp_ping_pong(&socks(bob), &to).await
}

/// Beyond the reference: trojan, vless and vmess. Each with an endpoint of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_take_users_too() -> Result<()> {
    const UUID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";
    const OTHER: &str = "11111111-6324-4d53-ad4f-8cda48b30811";
    let api = ports::free();
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let to = Target::from(echo.addr());
    let kinds = [
        ("trojan", "password", "secret", "other"),
        ("vless", "uuid", UUID, OTHER),
        ("vmess", "uuid", UUID, OTHER),
    ];
    let servers: Vec<u16> = kinds.iter().map(|_| ports::free()).collect();
    let entries: Vec<u16> = kinds.iter().map(|_| ports::free()).collect();
    let inbounds = kinds.iter().zip(&servers).map(|((kind, key, _, other), port)| {
        json!({
            "type": kind, "tag": kind, "listen": "127.0.0.1", "listen_port": port,
            "users": [{ "name": "configured", (*key): other }]
        })
    });
    let _daemon = Daemon::start(&json!({
        "inbounds": inbounds.collect::<Vec<_>>(),
        "services": [{
            "type": "ssm-api", "listen": "127.0.0.1", "listen_port": api,
            "servers": { "/t": "trojan", "/l": "vless", "/m": "vmess" }
        }],
    }))
    .await?;
    let outbounds = kinds.iter().zip(&servers).map(|((kind, key, secret, _), port)| {
        json!({ "type": kind, "tag": kind, "server": "127.0.0.1", "server_port": port, (*key): secret })
    });
    let mixed = kinds.iter().zip(&entries).map(|((kind, ..), port)| {
        json!({ "type": "mixed", "tag": format!("{kind}-in"), "listen": "127.0.0.1", "listen_port": port })
    });
    let rules =
        kinds.map(|(kind, ..)| json!({ "inbound": format!("{kind}-in"), "outbound": kind }));
    let _clients = Subject::under_test()
        .start(&json!({
            "inbounds": mixed.collect::<Vec<_>>(),
            "outbounds": outbounds.collect::<Vec<_>>(),
            "route": { "rules": rules },
        }))
        .await?;
    for (((kind, _, secret, _), entry), door) in kinds.iter().zip(&entries).zip(["/t", "/l", "/m"])
    {
        let users = format!("{door}/server/v1/users");
        let via = socks(*entry);
        ensure!(suite::tcp_ping_pong(&via, &to).await.is_err(), "{kind}: a stranger is served");
        let taken = json!({ "username": "configured", "uPSK": secret }).to_string();
        expect(api, "POST", &users, &taken, 400).await?;
        let ann = json!({ "username": "ann", "uPSK": secret }).to_string();
        expect(api, "POST", &users, &ann, 201).await?;
        suite::tcp_ping_pong(&via, &to).await.with_context(|| format!("{kind}: a new user"))?;
        let held = via.tcp(&to).await?;
        let path = format!("{users}/ann");
        until("the flow is known", Duration::from_secs(5), async || {
            let user = expect(api, "GET", &path, "", 200).await;
            user.and_then(|user| user.json()).is_ok_and(|user| user["tcpSessions"] == 2)
        })
        .await?;
        expect(api, "DELETE", &path, "", 204).await?;
        ensure!(is_cut(held).await, "{kind}: a flow outlived its user");
        ensure!(suite::tcp_ping_pong(&via, &to).await.is_err(), "{kind}: a deleted user is served");
    }
    Ok(())
}
