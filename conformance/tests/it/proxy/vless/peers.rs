//! mihomo and Xray on the other side.

use anyhow::{Context, Result, ensure};
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

use super::{BULK, ID, Inside, VISION, merge, tls_in};
use crate::proxy::{
    mihomo::{base, mihomo, suites},
    stage::Ports,
};
use crate::tls::certs::{Certs, Files};

fn certs() -> Result<(Certs, Files)> {
    let authority = Certs::new("vless peers")?;
    let files = authority.issue("server", &["localhost"])?;
    Ok((authority, files))
}

/// Runs Xray until `port` is open.
async fn xray(config: &Value, port: u16) -> Result<Running> {
    let launch = Launch::new("xray", Peer::Xray.path()?)?;
    write_config(launch.dir(), config)?;
    let file = format!("{}/config.json", launch.dir().to_string_lossy());
    launch.args(["run".to_owned(), "-c".to_owned(), file]).ready([Ready::Tcp(port)]).start().await
}

async fn our_server(users: Value, files: &Files, port: u16) -> Result<Running> {
    Subject::under_test()
        .start(&json!({
            "inbounds": [{
                "type": "vless", "listen": "127.0.0.1", "listen_port": port, "users": users, "tls": tls_in(files),
            }],
        }))
        .await
}

async fn our_client(more: &Value, server: u16, entry: u16) -> Result<Running> {
    let mut outbound = json!({
        "type": "vless", "server": "127.0.0.1", "server_port": server, "uuid": ID,
        "tls": { "enabled": true, "server_name": "localhost", "insecure": true },
    });
    merge(&mut outbound, more);
    Subject::under_test()
        .start(&json!({
            "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
            "outbounds": [outbound],
        }))
        .await
}

/// What Xray can pass on: the end of one direction is soon the end of both.
async fn open_suites(entry: u16, what: &str) -> Result<()> {
    let via = Via::from(Socks::v5(Ports::v4(entry)));
    for origins in [Origins::v4().await?, Origins::v6().await?] {
        suite::tcp_open(&via, &origins, Naming::Address).await.with_context(|| what.to_owned())?;
        // Of many datagrams at once it drops some, whoever the server is.
        let udp = origins.udp.addr().into();
        suite::udp_ping_pong(&via, &udp).await.with_context(|| what.to_owned())?;
        suite::udp_size(&via, &udp, 4096).await.with_context(|| what.to_owned())?;
    }
    Ok(())
}

/// TLS through a link with Vision, and what our end has spliced of it.
async fn inside(files: &Files, entry: u16, ours: &Running, what: &str) -> Result<()> {
    let (inside, origins) = (Inside::start(files, entry).await?, Origins::v4().await?);
    // Neither of the peers passes the end of one direction on.
    inside.suites(&origins, false).await.with_context(|| what.to_owned())?;
    let spliced = inside.spliced(&origins, ours).await?;
    ensure!(spliced > BULK / 2, "{what}: {spliced} bytes spliced");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_mihomo() -> Result<()> {
    let (_authority, files) = certs()?;
    for (flow, encoding) in [("", "xudp"), ("", "packetaddr"), (VISION, "xudp")] {
        let [server, entry] = ports::many();
        let back = our_server(json!([{ "uuid": ID, "flow": flow }]), &files, server).await?;
        let mut config = base(entry, false);
        config["proxies"] = json!([{
            "name": "link", "type": "vless", "server": "127.0.0.1", "port": server, "uuid": ID, "udp": true,
            "flow": flow, "packet-encoding": encoding, "tls": true, "servername": "localhost",
            "skip-cert-verify": true, "client-fingerprint": "chrome",
        }]);
        config["rules"] = json!(["MATCH,link"]);
        let _peer = mihomo(&config, entry).await?;
        let what = format!("mihomo to our vless, {flow:?} {encoding}");
        suites(entry, false, true, &what).await?;
        if !flow.is_empty() {
            inside(&files, entry, &back, &what).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_mihomo() -> Result<()> {
    let (_authority, files) = certs()?;
    for (flow, more) in [
        ("", json!({})),
        ("", json!({ "packet_encoding": "packetaddr" })),
        (VISION, json!({ "flow": VISION })),
    ] {
        let [server, mixed, entry] = ports::many();
        let mut config = base(mixed, false);
        config["listeners"] = json!([{
            "name": "in", "type": "vless", "listen": "127.0.0.1", "port": server,
            "users": [{ "username": "ann", "uuid": ID, "flow": flow }],
            "certificate": std::fs::read_to_string(&files.certificate)?,
            "private-key": std::fs::read_to_string(&files.key)?,
        }]);
        config["rules"] = json!(["MATCH,DIRECT"]);
        let _peer = mihomo(&config, mixed).await?;
        let front = our_client(&more, server, entry).await?;
        let what = format!("our vless to mihomo, {more}");
        suites(entry, false, true, &what).await?;
        if !flow.is_empty() {
            inside(&files, entry, &front, &what).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_xray() -> Result<()> {
    let (_authority, files) = certs()?;
    for flow in ["", VISION] {
        let [server, entry] = ports::many();
        let back = our_server(json!([{ "uuid": ID, "flow": flow }]), &files, server).await?;
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": entry, "protocol": "socks",
                "settings": { "udp": true, "ip": "127.0.0.1" },
            }],
            "outbounds": [{
                "protocol": "vless",
                "settings": { "vnext": [{
                    "address": "127.0.0.1", "port": server,
                    "users": [{ "id": ID, "encryption": "none", "flow": flow }],
                }] },
                "streamSettings": {
                    "network": "tcp", "security": "tls",
                    "tlsSettings": { "serverName": "localhost", "allowInsecure": true },
                },
            }],
        });
        let _peer = xray(&config, entry).await?;
        let what = format!("Xray to our vless, {flow:?}");
        open_suites(entry, &what).await?;
        if !flow.is_empty() {
            inside(&files, entry, &back, &what).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_xray() -> Result<()> {
    let (_authority, files) = certs()?;
    for (flow, more) in [
        ("", json!({})),
        ("", json!({ "packet_encoding": "" })),
        (VISION, json!({ "flow": VISION })),
    ] {
        let [server, entry] = ports::many();
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": server, "protocol": "vless",
                "settings": { "clients": [{ "id": ID, "flow": flow }], "decryption": "none" },
                "streamSettings": {
                    "network": "tcp", "security": "tls",
                    "tlsSettings": { "certificates": [{ "certificateFile": files.certificate, "keyFile": files.key }] },
                },
            }],
            "outbounds": [{ "protocol": "freedom", "settings": {} }],
        });
        let _peer = xray(&config, server).await?;
        let front = our_client(&more, server, entry).await?;
        let what = format!("our vless to Xray, {more}");
        open_suites(entry, &what).await?;
        if !flow.is_empty() {
            inside(&files, entry, &front, &what).await?;
        }
    }
    Ok(())
}
