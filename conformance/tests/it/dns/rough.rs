//! A server on a rough road, asked through the DNS inbound: packets that are lost, answers of 4096 bytes, chains of names,
//! and a server that dies and comes back.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{ports, subject::Subject};
use serde_json::json;
use tokio::task::JoinSet;

use super::{client::Ask, origin::Origin};

const WAIT: Duration = Duration::from_secs(10);

async fn ask(port: u16, text: &str) -> Result<String> {
    Ask::parse(text)?.at((Ipv4Addr::LOCALHOST, port).into(), WAIT).await
}

async fn wants(port: u16, text: &str, part: &str) -> Result<()> {
    let said = ask(port, text).await.with_context(|| text.to_owned())?;
    ensure!(said.contains(part), "{text}: no {part} in {said}");
    Ok(())
}

#[tokio::test]
async fn answers_come_over_a_rough_road() -> Result<()> {
    if Subject::under_test().is_reference() {
        // It has no DNS inbound.
        return Ok(());
    }
    let [port, server] = ports::many();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
    let origin = Origin::bind("main", addr).await?;
    let config = json!({
        "log": { "level": "debug" },
        "dns": {
            "servers": [{ "type": "udp", "server": "127.0.0.1", "server_port": server }],
            "disable_cache": true,
        },
        "inbounds": [{ "type": "dns", "listen": "127.0.0.1", "listen_port": port }],
    });
    let daemon = Subject::under_test().start(&config).await?;
    wants(port, "a.1.test A", " A 192.0.2.1").await?;

    // The first datagram of each name is lost; nobody waits for anybody else's.
    let begun = Instant::now();
    let mut asks = JoinSet::new();
    for n in 0..20 {
        asks.spawn(async move {
            let text = format!("lost.m{n}.test A{}", if n % 2 == 0 { "" } else { " tcp" });
            wants(port, &text, " A 192.0.2.1").await
        });
    }
    while let Some(done) = asks.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    ensure!((900..4000).contains(&took.as_millis()), "lost packets cost {took:?}");

    // 256 addresses, more than 4096 bytes: truncated on the way to us, fetched over TCP, and truncated again where the client's
    // datagrams are shorter.
    wants(port, "huge.2.test A edns=8192", " and 252 more").await?;
    wants(port, "huge.3.test A tcp", " and 252 more").await?;
    wants(port, "huge.4.test A edns=1232", " tc").await?;
    for (ask, part) in [
        ("cname.5.test A", "CNAME middle.test."),
        ("cname.6.test A", " A 192.0.2.1"),
        ("dangling.7.test A", "CNAME nothing.test."),
        ("nx.8.test A", "NXDomain"),
        ("servfail.9.test A", "ServFail"),
        ("refused.10.test A", "Refused"),
    ] {
        wants(port, ask, part).await?;
    }

    // Nobody there: the client is told so before it gives up by itself.
    drop(origin);
    let begun = Instant::now();
    wants(port, "a.11.test A", "ServFail").await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // It comes back while a client waits.
    let waiting = tokio::spawn(async move { ask(port, "a.12.test A").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _origin = Origin::bind("main", addr).await?;
    let said = waiting.await??;
    ensure!(said.contains(" A 192.0.2.1"), "{said}\n{}", daemon.log_tail());
    wants(port, "a.13.test A", " A 192.0.2.1").await
}
