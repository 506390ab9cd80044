//! Parts that panic, fail and hang under load.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{Socks, Target, Via, origin::Origin},
    ports,
};
use serde_json::{Value, json};

use super::{
    load::{Load, Way},
    stage::{Daemon, until},
};

const TIMES: u64 = 20;

/// One faulty component of each kind, and a path that has nothing to do with them.
fn config(steady: u16, faulty: u16, endpoint: u16, echo: u16) -> Value {
    json!({
        "log": { "level": "error" },
        "inbounds": [
            { "type": "mixed", "tag": "steady", "listen": "127.0.0.1", "listen_port": steady },
            { "type": "fault", "tag": "in", "listen": "127.0.0.1", "listen_port": faulty,
              "target": "127.0.0.1", "target_port": echo, "trigger": "inbound.sock" }
        ],
        "outbounds": [
            { "type": "direct", "tag": "direct" },
            { "type": "fault", "tag": "out", "trigger": "outbound.sock" }
        ],
        "endpoints": [
            { "type": "fault", "tag": "end", "listen": "127.0.0.1", "listen_port": endpoint,
              "target": "127.0.0.1", "target_port": echo, "trigger": "endpoint.sock" }
        ],
        "services": [{ "type": "fault", "tag": "serve", "trigger": "service.sock" }],
        "dns": { "servers": [{ "type": "fault", "tag": "names", "trigger": "dns.sock" }] },
        "route": {
            "rules": [
                { "domain": "via.dns", "outbound": "direct" },
                { "domain": "via.outbound", "outbound": "out" },
                { "inbound": "in", "outbound": "direct" }
            ],
            "final": "direct"
        },
        "crosspoint": {
            "supervision": { "backoff_min": "20ms", "reset_after": "100ms", "pulse": "100ms", "max_restarts": 1000 }
        }
    })
}

/// One faulty component: its place in `ctl status`, its orders, and a way through it.
struct Part {
    kind: &'static str,
    tag: &'static str,
    trigger: &'static str,
    way: Option<Way>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_heals_in_place() -> Result<()> {
    let [steady, faulty, endpoint] = ports::many();
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let port = echo.addr().port();
    let daemon = Daemon::start(&config(steady, faulty, endpoint, port)).await?;
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let socks = Via::Socks(Socks::v5(local(steady)));
    let forwarded = |port| Via::Forwarded { tcp: local(port), udp: local(port) };
    let way = |name, via, echo| Way { name, via, echo };
    let direct = way("steady", socks.clone(), Target::Addr(echo.addr()));
    let named = |name: &str| Target::Name(name.to_owned(), port);
    let parts = [
        Part {
            kind: "inbound",
            tag: "in",
            trigger: "inbound.sock",
            way: Some(way("faulty inbound", forwarded(faulty), echo.addr().into())),
        },
        Part {
            kind: "outbound",
            tag: "out",
            trigger: "outbound.sock",
            way: Some(way("faulty outbound", socks.clone(), named("via.outbound"))),
        },
        Part {
            kind: "endpoint",
            tag: "end",
            trigger: "endpoint.sock",
            way: Some(way("faulty endpoint", forwarded(endpoint), echo.addr().into())),
        },
        Part {
            kind: "dns",
            tag: "names",
            trigger: "dns.sock",
            way: Some(way("faulty DNS server", socks.clone(), named("via.dns"))),
        },
        Part { kind: "service", tag: "serve", trigger: "service.sock", way: None },
    ];

    // Long streams through the faulty parts as well: a crash of the control part loses no flow.
    let mut ways: Vec<_> = parts.iter().filter_map(|part| part.way.clone()).collect();
    ways.push(direct.clone());
    let load =
        Load::start(&ways, 64, &[direct], &[local(steady), local(faulty), local(endpoint)]).await?;
    let mut slowest = Duration::ZERO;
    for part in &parts {
        for time in 0..TIMES {
            let order = ["panic", "error", "hang"][time as usize % 3];
            let what = format!("{order} number {} of {}/{}", time + 1, part.kind, part.tag);
            let before = daemon.status().await?.component(part.kind, part.tag)?;
            daemon.order(part.trigger, order).await.context(what.clone())?;
            let healed = until(&what, Duration::from_secs(1), async || {
                match daemon.status().await.and_then(|s| s.component(part.kind, part.tag)) {
                    Ok(now) => now.epoch == before.epoch + 1 && now.state == "up",
                    Err(_) => false,
                }
            })
            .await?;
            slowest = slowest.max(healed);
            if let Some(way) = &part.way {
                let connect = tokio::time::timeout(Duration::from_secs(1), way.via.tcp(&way.echo));
                connect.await.context(what.clone())?.context(what.clone())?;
            }
            let now = daemon.status().await?.component(part.kind, part.tag)?;
            ensure!(now.restarts == before.restarts + 1, "{what}: {now:?}");
            let reason = now.last_error.unwrap_or_default();
            let expected = ["ordered to panic", "ordered to fail", "no sign of life"];
            ensure!(reason.contains(expected[time as usize % 3]), "{what}: reason {reason:?}");
            // Healthy for long enough to start from the shortest backoff again.
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    }
    // A panic in a connection ends that connection.
    let epoch = daemon.status().await?.component("inbound", "in")?.epoch;
    for _ in 0..TIMES {
        daemon.order("inbound.sock", "panic-connection").await?;
    }
    ensure!(daemon.status().await?.component("inbound", "in")?.epoch == epoch);
    let seen = load.stop().await?;
    seen.flawless()?;
    let steady = daemon.status().await?;
    ensure!(steady.component("inbound", "steady")?.epoch == 1);
    ensure!(steady.component("outbound", "direct")?.epoch == 1);
    println!(
        "{} faults: slowest recovery {slowest:?}; {} MB echoed, {} new connections, none lost",
        TIMES * parts.len() as u64,
        seen.bytes >> 20,
        seen.connected
    );
    Ok(())
}

#[tokio::test]
async fn a_panic_while_taking_options_restarts_with_the_new_ones() -> Result<()> {
    let [steady, faulty, endpoint] = ports::many();
    let mut config = config(steady, faulty, endpoint, 9);
    let daemon = Daemon::start(&config).await?;
    config["outbounds"][1]["reconfigure"] = json!("panic");
    daemon.reload(&config).await?;
    until("it is up again", Duration::from_secs(2), async || {
        match daemon.status().await.and_then(|s| s.component("outbound", "out")) {
            Ok(now) => now.epoch == 2 && now.state == "up",
            Err(_) => false,
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn what_keeps_failing_is_degraded_and_urltest_moves_on() -> Result<()> {
    let [steady] = ports::many();
    let web = crosspoint_conformance::net::http::http_origin("127.0.0.1:0").await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let config = |build: &str| {
        json!({
            "log": { "level": "error" },
            "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": steady }],
            "outbounds": [
                { "type": "urltest", "tag": "best", "outbounds": ["broken", "direct"],
                  "url": format!("http://{}/", web.addr()), "interval": "1s", "idle_timeout": "1m" },
                { "type": "fault", "tag": "broken", "build": build, "trigger": "broken.sock" },
                { "type": "direct", "tag": "direct" }
            ],
            "crosspoint": { "supervision": { "backoff_min": "10ms", "max_restarts": 3 } }
        })
    };
    let daemon = Daemon::start(&config("error")).await?;
    until("it is degraded", Duration::from_secs(5), async || {
        let now = daemon.status().await.and_then(|s| s.component("outbound", "broken"));
        now.is_ok_and(|now| now.state == "degraded")
    })
    .await?;
    let reason = daemon.status().await?.component("outbound", "broken")?.last_error;
    ensure!(reason.as_deref() == Some("ordered to fail"), "{reason:?}");
    let inbound = SocketAddr::from(([127, 0, 0, 1], steady));
    let via = Via::Socks(Socks::v5(inbound));
    until("urltest has moved on", Duration::from_secs(10), async || {
        via.tcp(&echo.addr().into()).await.is_ok()
    })
    .await?;
    daemon.reload_ok(&config("")).await?;
    ensure!(daemon.status().await?.component("outbound", "broken")?.state == "up");
    Ok(())
}
