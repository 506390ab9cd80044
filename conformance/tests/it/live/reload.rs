//! Reloads under load.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use crosspoint_conformance::{
    net::{Socks, Via, http::HttpProxy, origin::Origin},
    ports,
};
use serde_json::{Value, json};

use super::{
    load::{Load, Way},
    stage::Daemon,
};

const RELOADS: usize = 300;

struct Ports {
    users: u16,
    plain: u16,
    second: u16,
    extra: u16,
}

/// Two inbounds with load on them, a chain through a third one, and everything that the reloads change.
fn config(p: &Ports) -> Value {
    json!({
        "log": { "level": "warn" },
        "inbounds": [
            { "type": "mixed", "tag": "users", "listen": "127.0.0.1", "listen_port": p.users,
              "users": [{ "username": "alice", "password": "a" }, { "username": "bob", "password": "b" }] },
            { "type": "http", "tag": "plain", "listen": "127.0.0.1", "listen_port": p.plain },
            { "type": "socks", "tag": "second", "listen": "127.0.0.1", "listen_port": p.second }
        ],
        "outbounds": [
            { "type": "direct", "tag": "direct" },
            { "type": "socks", "tag": "chained", "server": "127.0.0.1", "server_port": p.second },
            { "type": "socks", "tag": "spare", "server": "127.0.0.1", "server_port": 9 }
        ],
        "route": {
            "rules": [{ "inbound": "plain", "outbound": "chained" }],
            "final": "direct"
        }
    })
}

/// Changes one thing. `round` tells which, and to what.
fn change(config: &mut Value, round: usize, p: &Ports) -> &'static str {
    let turn = round / 8;
    match round % 8 {
        0 => {
            config["outbounds"][2]["server_port"] = json!(10 + turn);
            "an unrelated outbound"
        }
        1 => {
            config["inbounds"][0]["users"][1]["password"] = json!(format!("b{turn}"));
            "another user's password"
        }
        2 => {
            let rule = json!({ "domain": format!("blocked{turn}.example"), "action": "reject" });
            config["route"]["rules"] = json!([rule, { "inbound": "plain", "outbound": "chained" }]);
            "the route rules"
        }
        3 => {
            config["log"]["level"] = json!(if turn.is_multiple_of(2) { "error" } else { "warn" });
            "the log level"
        }
        4 => {
            let extra = json!({ "type": "mixed", "tag": "extra", "listen": "127.0.0.1", "listen_port": p.extra });
            config["inbounds"].as_array_mut().expect("a list").push(extra);
            "an added inbound"
        }
        5 => {
            config["inbounds"].as_array_mut().expect("a list").retain(|i| i["tag"] != "extra");
            "a removed inbound"
        }
        6 => {
            config["inbounds"][0]["tcp_keep_alive"] = json!(format!("{}s", 60 + turn));
            "the options of the listening inbound"
        }
        _ => {
            config["outbounds"][0]["connect_timeout"] = json!(format!("{}s", 5 + turn));
            "the outbound that carries the load"
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_reloads_lose_nothing() -> Result<()> {
    let [users, plain, second, extra] = ports::many();
    let p = Ports { users, plain, second, extra };
    let mut config = config(&p);
    let daemon = Daemon::start(&config).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ways = [
        Way {
            name: "alice through direct",
            via: Via::Socks(Socks::v5(local(users)).login("alice", "a")),
            echo: echo.addr().into(),
        },
        Way {
            name: "plain through the chain",
            via: Via::Http(HttpProxy::new(local(plain))),
            echo: echo.addr().into(),
        },
    ];
    let before = daemon.status().await?;
    let (fds, rss) = (daemon.running.fds(), daemon.running.rss());
    let load = Load::start(&ways, 64, &ways, &[local(users), local(plain)]).await?;
    let untouched = before.component("inbound", "plain")?.epoch;

    for round in 0..RELOADS {
        let what = change(&mut config, round, &p);
        let response = daemon.reload_ok(&config).await?;
        let seen = load.seen();
        ensure!(
            seen.broken.is_empty(),
            "reload {round} ({what}) broke a stream: {:?}",
            seen.broken
        );
        ensure!(seen.failed.is_empty(), "reload {round} ({what}): {:?}", seen.failed);
        ensure!(response["result"]["generation"] == json!(2 + round), "{response}");
    }

    let status = daemon.status().await?;
    ensure!(status.generation == 1 + RELOADS as u64, "{}", status.generation);
    ensure!(
        status.component("inbound", "plain")?.epoch == untouched,
        "an untouched inbound changed"
    );
    ensure!(status.component("outbound", "chained")?.epoch == 1, "an untouched outbound changed");

    // What cannot work changes nothing, and the answer names the cause.
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut busy = config.clone();
    busy["inbounds"].as_array_mut().expect("a list").push(
        json!({ "type": "mixed", "tag": "busy", "listen": "127.0.0.1", "listen_port": taken.local_addr()?.port() }),
    );
    let mut missing = config.clone();
    missing["route"]["final"] = json!("nowhere");
    let mut wrong = config.clone();
    wrong["inbounds"][0]["listen_prot"] = json!(1);
    for (bad, cause) in [
        (busy, "Address already in use"),
        (missing, "default outbound not found: nowhere"),
        (wrong, "inbounds[0].listen_prot: json: unknown field \"listen_prot\""),
    ] {
        let response = daemon.reload(&bad).await?;
        ensure!(response["ok"] == false, "{cause}: {response}");
        ensure!(response.to_string().contains(&cause.replace('"', "\\\"")), "{cause}: {response}");
    }
    std::fs::write(daemon.dir().join("config.json"), "{ \"inbounds\": [")?;
    let response = daemon.call(json!({"v": 1, "method": "reload"})).await?;
    ensure!(response["ok"] == false, "a broken file: {response}");
    let after = daemon.status().await?;
    ensure!(after.generation == status.generation, "a refused reload counted as one");
    for component in status.components.iter().filter(|c| c.state != "draining") {
        ensure!(after.components.contains(component), "{component:?} changed: {after:?}");
    }

    let seen = load.stop().await?;
    seen.flawless()?;
    drop(echo);
    super::stage::until(
        "old instances and sockets are gone",
        std::time::Duration::from_secs(10),
        async || {
            let draining = daemon
                .status()
                .await
                .map_or(1, |s| s.components.iter().filter(|c| c.state == "draining").count());
            draining == 0 && daemon.running.fds() <= fds + 4
        },
    )
    .await?;
    let grown = daemon.running.rss().saturating_sub(rss);
    ensure!(grown < 40 << 20, "memory grew by {grown} bytes");
    println!(
        "{RELOADS} reloads: {} MB echoed on 64 streams, {} new connections, slowest {:?}, none lost",
        seen.bytes >> 20,
        seen.connected,
        seen.slowest
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_user_is_cut_and_nobody_else() -> Result<()> {
    let [users, plain, second, extra] = ports::many();
    let p = Ports { users, plain, second, extra };
    let mut config = config(&p);
    let daemon = Daemon::start(&config).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let inbound = SocketAddr::from(([127, 0, 0, 1], users));
    let way = |name, user, password| Way {
        name,
        via: Via::Socks(Socks::v5(inbound).login(user, password)),
        echo: echo.addr().into(),
    };
    let alice =
        Load::start(&[way("alice", "alice", "a")], 8, &[way("alice", "alice", "a")], &[]).await?;
    let bob = Load::start(&[way("bob", "bob", "b")], 8, &[], &[]).await?;
    config["inbounds"][0]["users"].as_array_mut().expect("a list").pop();
    let response = daemon.reload_ok(&config).await?;
    let rows = response["result"]["components"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["kind"] == "inbound" && row["tag"] == "users");
    ensure!(row.is_some_and(|row| row["outcome"] == "reconfigured"), "{response}");
    super::stage::until("bob's streams are cut", std::time::Duration::from_secs(5), async || {
        bob.seen().broken.len() == 8
    })
    .await?;
    ensure!(Socks::v5(inbound).login("bob", "b").connect(&echo.addr().into()).await.is_err());
    bob.stop().await?;
    alice.stop().await?.flawless()?;
    ensure!(daemon.status().await?.component("inbound", "users")?.epoch == 1);
    Ok(())
}
