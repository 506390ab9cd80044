//! The transports `ws` and `httpupgrade` under Trojan: data in the request in both forms, with the reference and with
//! Xray, which is written in another way and sends it too; and half-close. (Bulk through every combination is the
//! matrix's.) What strangers see is `carried_probes.rs`.

use std::time::Duration;

use anyhow::{Context, Result};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Naming, Origins},
    },
    peers::Peer,
    ports,
    process::{Launch, Ready, Running},
    subject::{Subject, write_config},
};
use serde_json::{Value, json};

use super::stage::Ports;
use crate::tls::certs::{Certs, Files};

const PASSWORD: &str = "secret";

/// Transports at a server and at a client that go together.
fn transports() -> Vec<(&'static str, Value, Value)> {
    let same = |name, value: Value| (name, value.clone(), value);
    let header = json!({
        "type": "ws", "path": "/t ü", "max_early_data": 2048, "early_data_header_name": "Sec-WebSocket-Protocol"
    });
    vec![
        same("ws", json!({ "type": "ws" })),
        same("ws early in header", header),
        same("ws early in path", json!({ "type": "ws", "path": "/t/", "max_early_data": 65535 })),
        same(
            "ws few early bytes",
            json!({ "type": "ws", "max_early_data": 100, "early_data_header_name": "x-e" }),
        ),
        (
            "ws with host",
            json!({ "type": "ws", "path": "t" }),
            json!({ "type": "ws", "path": "/t", "headers": { "Host": "h.example", "X-A": ["1", "2"] } }),
        ),
        same(
            "httpupgrade",
            json!({ "type": "httpupgrade", "path": "/a?b c", "host": "h.example" }),
        ),
    ]
}

/// Every transport between two programs, without TLS and with it.
async fn chain(front: &Subject, back: &Subject) -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let links: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|tls| transports().into_iter().map(move |link| (tls, link)))
        .filter(|(tls, (name, ..))| !tls || name.contains("in header") || *name == "httpupgrade")
        .map(|(tls, link)| (tls, link, ports::many::<2>()))
        .collect();
    let inbounds = links.iter().map(|(tls, (_, server, _), [port, _])| {
        let mut inbound = json!({
            "type": "trojan", "listen": "127.0.0.1", "listen_port": port,
            "users": [{ "name": "ann", "password": PASSWORD }], "transport": server,
        });
        if *tls {
            inbound["tls"] = files.server();
            inbound["tls"]["enabled"] = json!(true);
        }
        inbound
    });
    let back_config = json!({
        "inbounds": inbounds.collect::<Vec<_>>(), "outbounds": [{ "type": "direct" }],
    });
    let _back = back.start(&back_config).await.context("back")?;
    let entries = links.iter().map(|(.., [port, entry])| {
        json!({ "type": "mixed", "tag": format!("in{port}"), "listen": "127.0.0.1", "listen_port": entry })
    });
    let exits = links.iter().map(|(tls, (_, _, client), [port, _])| {
        let mut outbound = json!({
            "type": "trojan", "tag": format!("out{port}"), "server": "127.0.0.1", "server_port": port,
            "password": PASSWORD, "transport": client,
        });
        if *tls {
            outbound["tls"] =
                json!({ "enabled": true, "server_name": "localhost", "insecure": true });
        }
        outbound
    });
    let rules = links.iter().map(|(.., [port, _])| {
        json!({ "inbound": format!("in{port}"), "outbound": format!("out{port}") })
    });
    let front_config = json!({
        "inbounds": entries.collect::<Vec<_>>(),
        "outbounds": exits.collect::<Vec<_>>(),
        "route": { "rules": rules.collect::<Vec<_>>() },
    });
    let _front = front.start(&front_config).await.context("front")?;
    let origins = Origins::v4().await?;
    for (tls, (name, ..), [_, entry]) in &links {
        let via = Via::from(Socks::v5(Ports::v4(*entry)));
        let what = || format!("{} -> {}, {name}, TLS {tls}", front.name(), back.name());
        let echo = origins.echo.addr().into();
        if front.is_reference() && name.contains("early") {
            // With data in the request it mixes up what it sends next, also to itself: one connection in thirty is lost
            // by that, and most bulk.
            let talk = async || suite::tcp_ping_pong(&via, &echo).await;
            patiently(talk).await.with_context(what)?;
            continue;
        }
        if back.is_reference() && *name == "httpupgrade" {
            // What a client sends at once behind its answer, the reference's server may read as HTTP and forget (Go's
            // `Hijack` returns it): one connection of its own client in ten is lost by that.
            let talk = async || suite::tcp_bulk(&via, &echo, suite::BULK).await.map(drop);
            patiently(talk).await.with_context(what)?;
            continue;
        }
        if front.is_reference() {
            // It closes both directions of a WebSocket connection when one ends.
            suite::tcp_open(&via, &origins, Naming::Address).await.with_context(what)?;
        } else {
            suite::tcp(&via, &origins, Naming::Address).await.with_context(what)?;
        }
        suite::udp(&via, &origins, Naming::Address).await.with_context(what)?;
    }
    Ok(())
}

/// Several chances for a peer that loses connections by itself.
async fn patiently(talk: impl AsyncFn() -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..10 {
        result = talk().await;
        if result.is_ok() {
            break;
        }
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_with_ours() -> Result<()> {
    chain(&Subject::under_test(), &Subject::under_test()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_the_reference() -> Result<()> {
    chain(&Subject::under_test(), &Subject::Reference).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_reference() -> Result<()> {
    chain(&Subject::Reference, &Subject::under_test()).await
}

async fn xray(config: &Value, port: u16) -> Result<Running> {
    let launch = Launch::new("xray", Peer::Xray.path()?)?;
    write_config(launch.dir(), config)?;
    let launch = launch.args(["run", "-c", "config.json"]).ready([Ready::Tcp(port)]);
    launch.timeout(Duration::from_secs(60)).start().await
}

/// Transports in Xray's words and in ours.
fn with_xray() -> Vec<(&'static str, Value, Value)> {
    let ws = |path: &str| json!({ "network": "ws", "wsSettings": { "path": path, "headers": { "Host": "h.example" } } });
    let ours = json!({ "type": "ws", "path": "/t", "headers": { "Host": "h.example" } });
    let mut early = ours.clone();
    early["max_early_data"] = json!(2048);
    early["early_data_header_name"] = json!("Sec-WebSocket-Protocol");
    let upgrade = json!({
        "network": "httpupgrade", "httpupgradeSettings": { "path": "/t", "host": "h.example" }
    });
    vec![
        ("ws", ws("/t"), ours),
        ("ws early", ws("/t?ed=2048"), early),
        (
            "httpupgrade",
            upgrade,
            json!({ "type": "httpupgrade", "path": "/t", "host": "h.example" }),
        ),
    ]
}

fn secured(mut stream: Value, files: Option<&Files>) -> Value {
    stream["security"] = json!("tls");
    stream["tlsSettings"] = match files {
        Some(files) => json!({
            "certificates": [{ "certificateFile": files.certificate, "keyFile": files.key }],
        }),
        None => json!({ "serverName": "localhost", "allowInsecure": true }),
    };
    stream
}

/// Xray ends both directions when one does, and drops what it has not passed on by then: nobody ends before all is there.
async fn run(entry: u16, what: &str) -> Result<()> {
    let what = || what.to_owned();
    let origins = Origins::v4().await?;
    let via = Via::from(Socks::v5(Ports::v4(entry)));
    let echo = origins.echo.addr().into();
    suite::tcp_ping_pong(&via, &echo).await.with_context(what)?;
    suite::tcp_bulk_open(&via, &echo, suite::BULK).await.with_context(what)?;
    suite::udp_ping_pong(&via, &origins.udp.addr().into()).await.with_context(what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_xray() -> Result<()> {
    let certs = Certs::new("carried")?;
    let mut tls = certs.issue("server", &["localhost"])?.server();
    tls["enabled"] = json!(true);
    for (name, stream, transport) in with_xray() {
        let [server, entry] = ports::many();
        let _back = Subject::under_test()
            .start(&json!({ "inbounds": [{
                "type": "trojan", "listen": "127.0.0.1", "listen_port": server, "transport": transport,
                "users": [{ "name": "ann", "password": PASSWORD }], "tls": tls,
            }] }))
            .await?;
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": entry, "protocol": "socks", "settings": { "udp": true, "ip": "127.0.0.1" }
            }],
            "outbounds": [{
                "protocol": "trojan",
                "settings": { "servers": [{ "address": "127.0.0.1", "port": server, "password": PASSWORD }] },
                "streamSettings": secured(stream, None),
            }],
        });
        let _front = xray(&config, entry).await?;
        run(entry, &format!("Xray to our {name}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_xray() -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    for (name, stream, transport) in with_xray() {
        let [server, entry] = ports::many();
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": server, "protocol": "trojan",
                "settings": { "clients": [{ "password": PASSWORD }] },
                "streamSettings": secured(stream, Some(&files)),
            }],
            "outbounds": [{ "protocol": "freedom", "settings": {} }],
        });
        let _back = xray(&config, server).await?;
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                "outbounds": [{
                    "type": "trojan", "server": "127.0.0.1", "server_port": server, "password": PASSWORD,
                    "transport": transport,
                    "tls": { "enabled": true, "server_name": "localhost", "insecure": true },
                }],
            }))
            .await?;
        run(entry, &format!("our {name} to Xray")).await?;
    }
    Ok(())
}
