//! The control part of a tunnel fails, changes and is restarted: flows live on. More comes than can be done: it is
//! shed.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::{
        origin::Origin,
        suite::{self, Origins},
    },
    ports,
    process::Running,
    subject::Subject,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::UdpSocket, time::Instant};

use super::wireguard_stage::{
    End, Flow, Relay, SECRET, Side, Weather, reload, served, start, through, unknown, with,
};
use crate::live::stage::{Daemon, until};

/// Its work panics, fails and hangs; streams in both directions do not notice, and new ones are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_fails_and_flows_live() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let mut config = ours.config(&[theirs.peer(SECRET)], &theirs, &json!({}));
    config["endpoints"][0]["type"] = json!("fault-wireguard");
    config["crosspoint"] = json!({ "supervision": {
        "backoff_min": "20ms", "reset_after": "100ms", "pulse": "100ms", "max_restarts": 1000,
    } });
    let daemon = Daemon::start(&config).await?;
    let config = theirs.config(&[ours.peer(SECRET)], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut out = Flow::open("out", &ours, echo).await?;
    let mut back = Flow::open("in", &theirs, echo).await?;
    for time in 0..6 {
        let order = ["panic", "error", "hang"][time % 3];
        let what = format!("{order}, the {}th fault", time + 1);
        let before = daemon.status().await?.component("endpoint", "tunnel")?;
        daemon.order("tunnel.sock", order).await.context(what.clone())?;
        until(&what, Duration::from_secs(10), async || {
            match daemon.status().await.and_then(|s| s.component("endpoint", "tunnel")) {
                Ok(now) => now.epoch == before.epoch + 1 && now.state == "up",
                Err(_) => false,
            }
        })
        .await?;
        out.beat().await.context(what.clone())?;
        back.beat().await.context(what.clone())?;
        suite::tcp_ping_pong(&ours.via(), &echo.into()).await.context(what.clone())?;
        suite::tcp_ping_pong(&theirs.via(), &echo.into()).await.context(what.clone())?;
        suite::udp_ping_pong(&theirs.via(), &origins.udp.addr().into()).await.context(what)?;
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    Ok(())
}

/// What is said of a peer changes while a stream goes through it: addresses behind it, and how it is kept in touch. It
/// has come to us, so that we know only from its messages where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_peer_keeps_its_flows() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let peer = unknown(theirs.peer(SECRET));
    let first = ours.config(std::slice::from_ref(&peer), &theirs, &json!({}));
    let more = json!({
        "allowed_ips": ["10.9.0.2/32", "fd00:9::2/128", "10.66.0.0/16"],
        "persistent_keepalive_interval": 1,
    });
    let second = ours.config(&[with(peer, &more)], &theirs, &json!({}));
    let program = start(&Subject::under_test(), &first).await?;
    let relay = Relay::to(ours.port, Weather::default()).await?;
    let peer = through(&relay, ours.peer(SECRET));
    let _theirs = start(&Subject::Reference, &theirs.config(&[peer], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut back = Flow::open("in", &theirs, echo).await?;
    let mut out = Flow::open("out", &ours, echo).await?;
    for config in [&second, &first, &second] {
        reload(&program, config)?;
        // We speak first: nothing of the peer has come since.
        out.beat().await?;
        back.beat().await?;
    }
    // One handshake was enough for all of it.
    let handshakes = relay.seen().iter().filter(|(_, message)| message[0] == 1).count();
    ensure!(handshakes == 1, "{handshakes} handshakes");
    // It is kept in touch now: a word of 32 bytes each second.
    let kept = async || {
        let seen = relay.seen();
        seen.iter().filter(|(side, said)| *side == Side::Far && said.len() == 32).count() >= 3
    };
    until("the way is kept open", Duration::from_secs(10), kept).await?;
    Ok(())
}

/// A peer with a name that is not known at first, then leads nowhere, and then to where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_found_by_name() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    // It is found at one address of loopback only.
    let relay = Relay::to(theirs.port, Weather::default()).await?;
    let config = |known: Value| {
        let more = json!({ "domain_resolver": "names" });
        let mut peer = through(&relay, theirs.peer(SECRET));
        peer["address"] = "peer.test".into();
        let mut config = ours.config(&[peer], &theirs, &more);
        config["dns"] = json!({ "servers": [{ "type": "hosts", "tag": "names", "path": [], "predefined": known }] });
        config
    };
    let program =
        start(&Subject::under_test(), &config(json!({ "other.test": "127.0.0.1" }))).await?;
    let peer = unknown(ours.peer(SECRET));
    let _theirs = start(&Subject::Reference, &theirs.config(&[peer], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr().into();
    ensure!(!served(&ours, &echo).await, "served by a peer that nobody can find");
    reload(&program, &config(json!({ "peer.test": "127.0.0.9" })))?;
    ensure!(!served(&ours, &echo).await, "served by nobody");
    reload(&program, &config(json!({ "peer.test": "127.0.0.1" })))?;
    // Nobody has answered at the old address for a while, and the name is looked up again.
    let begun = Instant::now();
    while !served(&ours, &echo).await {
        ensure!(begun.elapsed() < Duration::from_secs(40), "not found: {}", program.log_tail());
    }
    Ok(())
}

/// Seconds of overload.
fn overload() -> Duration {
    let long = std::env::var("CONFORMANCE_WIREGUARD").is_ok_and(|value| value == "long");
    Duration::from_secs(if long { 60 } else { 5 })
}

/// Ten times more comes than can be done: the program gets a tenth of the time, streams are not read at the other end, and
/// datagrams come from many clients. Memory stays flat, and afterwards all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_shed() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let [entry] = ports::many();
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let stuck = Origin::tcp("127.0.0.1:0", |stream, _| async move {
        // Reads nothing, for ever.
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await?;
    let quiet = json!({ "log": { "level": "error" } });
    let config = with(ours.config(&[unknown(theirs.peer(""))], &theirs, &json!({})), &quiet);
    let mut us = start(&Subject::under_test(), &config).await?;
    let mut config = with(theirs.config(&[ours.peer("")], &ours, &json!({})), &quiet);
    // Datagrams go in without ceremony.
    config["inbounds"].as_array_mut().context("inbounds")?.push(json!({
        "type": "direct", "tag": "flood", "listen": "127.0.0.1", "listen_port": entry, "network": "udp",
        "override_address": "10.9.0.1", "override_port": origins.udp.addr().port(), "udp_timeout": "2s",
    }));
    config["route"]["rules"]
        .as_array_mut()
        .context("rules")?
        .insert(0, json!({ "inbound": "flood", "outbound": "tunnel" }));
    // The flood comes from a program that keeps up.
    let _theirs = start(&Subject::under_test(), &config).await?;
    let mut flow = Flow::open("a quiet one", &theirs, echo).await?;
    flow.beat().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut stream = theirs.via().tcp(&stuck.addr().into()).await?;
        work.spawn(async move {
            let bytes = vec![0; 65_536];
            while stream.write_all(&bytes).await.is_ok() {}
        });
    }
    for lane in 0..4 {
        let (stop, sent) = (stop.clone(), sent.clone());
        work.spawn(async move {
            let mut sockets = Vec::new();
            for _ in 0..10 {
                sockets.extend(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await);
            }
            let payload = vec![lane; 1200];
            while !stop.load(Ordering::Relaxed) {
                for socket in &sockets {
                    if socket.send_to(&payload, (Ipv4Addr::LOCALHOST, entry)).await.is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let length = overload();
    let begun = Instant::now();
    let mut memory = Vec::new();
    while begun.elapsed() < length {
        // A tenth of the time for ours.
        us.signal(Signal::CONT)?;
        tokio::time::sleep(Duration::from_millis(10)).await;
        memory.push(us.rss());
        us.signal(Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(90)).await;
    }
    us.signal(Signal::CONT)?;
    stop.store(true, Ordering::Relaxed);
    let megabytes = |bytes: u64| bytes >> 20;
    let (early, late) = memory.split_at(memory.len() / 2);
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or_default();
    let told = format!(
        "{} datagrams in {length:?}; memory {} MB at first, {} MB at most in the first half, {} MB in the second",
        sent.load(Ordering::Relaxed),
        megabytes(memory[0]),
        megabytes(most(early)),
        megabytes(most(late)),
    );
    println!("{told}");
    if length > Duration::from_secs(10) {
        loud::line(&told);
    }
    // Twenty streams and forty clients have half a megabyte each at most, in each of two places.
    ensure!(most(late) < memory[0] + (80 << 20), "too much memory: {told}");
    let flat = length < Duration::from_secs(10) || most(late) < most(early) + (8 << 20);
    ensure!(flat, "memory grows: {told}");
    flow.beat().await.with_context(|| us.log_tail())?;
    let after = async || served(&theirs, &echo.into()).await;
    until("new flows are served again", Duration::from_secs(30), after).await?;
    work.shutdown().await;
    Ok(())
}

/// A connection that comes out of the tunnel leaves through another outbound when a rule says so, and its answer comes back;
/// one that comes in elsewhere leaves through the tunnel of a second endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_lead_from_the_tunnel_to_another_outbound() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let [proxy] = ports::many();
    // The other outbound ends at a program that leads everything to loopback.
    let target = |program: &Running| program.log();
    let behind = json!({
        "log": { "level": "debug" },
        "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": proxy }],
        "outbounds": [{ "type": "direct" }],
        "route": { "rules": [{ "action": "route-options", "override_address": "127.0.0.1" }] },
    });
    let behind = start(&Subject::Reference, &behind).await?;
    let mut config = ours.config(&[unknown(theirs.peer(SECRET))], &theirs, &json!({}));
    config["outbounds"].as_array_mut().context("outbounds")?.push(json!({
        "type": "socks", "tag": "away", "server": "127.0.0.1", "server_port": proxy,
    }));
    config["route"]["rules"]
        .as_array_mut()
        .context("rules")?
        .insert(0, json!({ "inbound": "tunnel", "ip_cidr": "10.66.0.0/16", "outbound": "away" }));
    let _ours = start(&Subject::under_test(), &config).await?;
    let peer = with(ours.peer(SECRET), &json!({ "allowed_ips": ["10.9.0.1/32", "10.66.0.0/16"] }));
    let mut config = theirs.config(&[peer], &ours, &json!({}));
    config["route"]["rules"][0]["override_address"] = "10.66.7.7".into();
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    suite::tcp(&theirs.via(), &origins, suite::Naming::Address).await?;
    let udp = origins.udp.addr().into();
    suite::udp_ping_pong(&theirs.via(), &udp).await?;
    suite::udp_many(&theirs.via(), &udp, 20, 1500).await?;
    ensure!(target(&behind).contains("10.66.7.7"), "nothing came through the other outbound");
    Ok(())
}
