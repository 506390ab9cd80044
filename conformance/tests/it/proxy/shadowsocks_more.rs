//! The rest of Shadowsocks: relays with the reference on every place, old stream ciphers with mihomo and (where the
//! machine has it) shadowsocks-libev, SIP003 plugins with simple-obfs, v2ray-plugin, mihomo and Xray.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
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

use super::{
    mihomo::{base, mihomo, suites},
    stage::Ports,
};
use crate::tls::certs::Certs;

const RELAY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const SERVER: &str = "ZmVkY2JhOTg3NjU0MzIxMA==";
const USER: &str = "MTEyMzQ1Njc4OWFiY2RlZg==";
const METHOD: &str = "2022-blake3-aes-128-gcm";

fn inbound(port: u16, more: Value) -> Value {
    let mut inbound = json!({
        "type": "shadowsocks", "tag": "in", "listen": "127.0.0.1", "listen_port": port,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        inbound[key] = value.clone();
    }
    json!({ "log": { "level": "debug" }, "inbounds": [inbound], "outbounds": [{ "type": "direct" }] })
}

fn outbound(entry: u16, port: u16, more: Value) -> Value {
    let mut outbound = json!({ "type": "shadowsocks", "server": "127.0.0.1", "server_port": port });
    for (key, value) in more.as_object().into_iter().flatten() {
        outbound[key] = value.clone();
    }
    json!({
        "log": { "level": "debug" },
        "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
        "outbounds": [outbound],
    })
}

/// Client → relay → server: ours and the reference's on each place, a server with one key and one with users behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_hand_on_what_they_cannot_read() -> Result<()> {
    let (us, reference) = (Subject::under_test(), Subject::Reference);
    let origins = Origins::v4().await?;
    for (client, relay, server) in [
        (&us, &us, &us),
        (&reference, &us, &reference),
        (&us, &reference, &us),
        (&reference, &us, &us),
    ] {
        for (users, password) in
            [(false, format!("{RELAY}:{SERVER}")), (true, format!("{RELAY}:{SERVER}:{USER}"))]
        {
            let [entry, middle, end] = ports::many();
            let mut keys = json!({ "method": METHOD, "password": SERVER });
            if users {
                keys["users"] = json!([{ "name": "ann", "password": USER }]);
            }
            let _server = server.start(&inbound(end, keys)).await?;
            let to = json!([
                { "name": "other", "password": "b3RoZXIgc2VydmVyICAgIA==", "server": "127.0.0.1", "server_port": 9 },
                { "name": "behind", "password": SERVER, "server": "127.0.0.1", "server_port": end },
            ]);
            let to = json!({ "method": METHOD, "password": RELAY, "destinations": to });
            let _relay = relay.start(&inbound(middle, to)).await?;
            let link = json!({ "method": METHOD, "password": password });
            let _client = client.start(&outbound(entry, middle, link)).await?;
            let what = || {
                format!(
                    "{} -> {} -> {}, users: {users}",
                    client.name(),
                    relay.name(),
                    server.name()
                )
            };
            let via = Via::from(Socks::v5(Ports::v4(entry)));
            let mut tcp = Ok(());
            for _ in 0..3 {
                tcp = if client.is_reference() || server.is_reference() || relay.is_reference() {
                    // The reference closes both directions when one ends.
                    suite::tcp_open(&via, &origins, Naming::Address).await
                } else {
                    suite::tcp(&via, &origins, Naming::Address).await
                };
                // See sealed.rs: the reference as client may read an answer too early.
                if tcp.is_ok() || !client.is_reference() {
                    break;
                }
            }
            tcp.with_context(what)?;
            suite::udp(&via, &origins, Naming::Address).await.with_context(what)?;
        }
    }
    Ok(())
}

/// A stranger to the relay is closed and nothing is dialled; what knows the relay's key but names nobody, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_serves_nobody_else() -> Result<()> {
    let [middle, end] = ports::many();
    let origins = Origins::v4().await?;
    let to = json!([{ "name": "behind", "password": SERVER, "server": "127.0.0.1", "server_port": end }]);
    let _relay = Subject::under_test()
        .start(&inbound(middle, json!({ "method": METHOD, "password": RELAY, "destinations": to })))
        .await?;
    for password in [format!("{USER}:{SERVER}"), format!("{RELAY}:{USER}"), RELAY.to_owned()] {
        let entry = ports::free();
        let link = json!({ "method": METHOD, "password": password });
        let _client = Subject::under_test().start(&outbound(entry, middle, link)).await?;
        let via = Via::from(Socks::v5(Ports::v4(entry)));
        let result = suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await;
        ensure!(result.is_err(), "{password} was served");
    }
    Ok(())
}

const LEGACY: [&str; 9] = [
    "aes-128-ctr",
    "aes-192-ctr",
    "aes-256-ctr",
    "aes-128-cfb",
    "aes-192-cfb",
    "aes-256-cfb",
    "rc4-md5",
    "chacha20-ietf",
    "xchacha20",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_ciphers_with_mihomo() -> Result<()> {
    let [mixed] = ports::many();
    let ports: Vec<[u16; 2]> = LEGACY.iter().map(|_| ports::many()).collect();
    let mut config = base(mixed, false);
    let listeners = LEGACY.iter().zip(&ports).map(|(method, [server, _])| {
        json!({
            "name": method, "type": "shadowsocks", "listen": "127.0.0.1", "port": server,
            "cipher": method, "password": "old secret", "udp": true
        })
    });
    config["listeners"] = listeners.collect();
    config["rules"] = json!(["MATCH,DIRECT"]);
    let _peer = mihomo(&config, mixed).await?;
    for (method, [server, entry]) in LEGACY.iter().zip(&ports) {
        let link = json!({ "method": method, "password": "old secret" });
        let _front = Subject::under_test().start(&outbound(*entry, *server, link)).await?;
        suites(*entry, false, true, &format!("our shadowsocks to mihomo, {method}")).await?;
    }
    Ok(())
}

/// A program of the machine; `None`, said loudly, where it is missing.
fn installed(name: &str) -> Option<PathBuf> {
    let path = ["/usr/bin", "/usr/local/bin"].map(|dir| PathBuf::from(dir).join(name));
    let found = path.into_iter().find(|path| path.is_file());
    if found.is_none() {
        loud::not_run(name, "it is not installed on this machine");
    }
    found
}

async fn ss_server(config: &Value, port: u16) -> Result<Option<Running>> {
    let Some(program) = installed("ss-server") else { return Ok(None) };
    let launch = Launch::new("ss-server", program)?;
    write_config(launch.dir(), config)?;
    launch.args(["-c", "config.json"]).ready([Ready::Tcp(port)]).start().await.map(Some)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_ciphers_with_libev() -> Result<()> {
    let origins = Origins::v4().await?;
    for method in ["aes-128-ctr", "aes-192-cfb", "aes-256-cfb", "rc4-md5", "chacha20-ietf"] {
        let [server, entry] = ports::many();
        let config = json!({
            "server": "127.0.0.1", "server_port": server, "password": "old secret", "method": method,
            "mode": "tcp_and_udp", "timeout": 60,
        });
        let Some(_peer) = ss_server(&config, server).await? else { return Ok(()) };
        let link = json!({ "method": method, "password": "old secret" });
        let _front = Subject::under_test().start(&outbound(entry, server, link)).await?;
        let via = Via::from(Socks::v5(Ports::v4(entry)));
        let what = || format!("our shadowsocks to shadowsocks-libev, {method}");
        suite::tcp_open(&via, &origins, Naming::Address).await.with_context(what)?;
        // Larger datagrams it drops.
        suite::udp_ping_pong(&via, &origins.udp.addr().into()).await.with_context(what)?;
    }
    Ok(())
}

/// What the plugin of a client does to the bytes of the protocol.
async fn through_plugin(server: u16, link: Value, what: &str) -> Result<()> {
    let entry = ports::free();
    let origins = Origins::v4().await?;
    let _front = Subject::under_test().start(&outbound(entry, server, link)).await?;
    let via = Via::from(Socks::v5(Ports::v4(entry)));
    suite::tcp_ping_pong(&via, &origins.echo.addr().into())
        .await
        .with_context(|| what.to_owned())?;
    suite::tcp_bulk_open(&via, &origins.echo.addr().into(), 8 << 20)
        .await
        .with_context(|| what.to_owned())?;
    // A server that talks first.
    let stream = suite::tcp_download(&via, &origins.source.addr().into(), 1 << 20).await;
    drop(stream.with_context(|| what.to_owned())?);
    Ok(())
}

fn link(plugin: &str, options: &str) -> Value {
    json!({
        "method": "aes-128-gcm", "password": "x", "network": "tcp",
        "plugin": plugin, "plugin_opts": options
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_with_their_own_servers() -> Result<()> {
    for (program, server_options, plugin, options) in [
        ("obfs-server", "obfs=http", "obfs-local", "obfs=http;obfs-host=example.org"),
        ("obfs-server", "obfs=tls", "obfs-local", "obfs=tls;obfs-host=example.org"),
        (
            "ss-v2ray-plugin",
            "server;host=example.org;path=/sip",
            "v2ray-plugin",
            "host=example.org;path=/sip",
        ),
        (
            "ss-v2ray-plugin",
            "server;host=example.org;path=/sip;mux=0",
            "v2ray-plugin",
            "host=example.org;path=/sip;mux=0",
        ),
    ] {
        if installed(program).is_none() {
            continue;
        }
        let server = ports::free();
        let config = json!({
            "server": "127.0.0.1", "server_port": server, "password": "x", "method": "aes-128-gcm",
            "mode": "tcp_only", "timeout": 60, "plugin": program, "plugin_opts": server_options,
        });
        let Some(_peer) = ss_server(&config, server).await? else { return Ok(()) };
        let what = format!("{plugin} {options} to {program}");
        through_plugin(server, link(plugin, options), &what).await?;
    }
    Ok(())
}

/// mihomo has a server of simple-obfs in the mode `http`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn obfs_http_with_mihomo() -> Result<()> {
    let [server, mixed] = ports::many();
    let mut config = base(mixed, false);
    config["listeners"] = json!([{
        "name": "in", "type": "shadowsocks", "listen": "127.0.0.1", "port": server,
        "cipher": "aes-128-gcm", "password": "x", "udp": false,
        "simple-obfs": { "enable": true, "mode": "http" }
    }]);
    config["rules"] = json!(["MATCH,DIRECT"]);
    let _peer = mihomo(&config, mixed).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    through_plugin(server, link("obfs-local", "obfs=http;obfs-host=a.test"), "obfs-local to mihomo")
        .await
}

/// The server of v2ray-plugin is V2Ray itself: a `dokodemo-door` behind a WebSocket, with and without mux.cool and TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2ray_plugin_with_xray() -> Result<()> {
    let authority = Certs::new("v2ray-plugin")?;
    let files = authority.issue("server", &["localhost"])?;
    let files = files.server();
    for (mux, tls) in [(true, false), (false, false), (true, true)] {
        let [server, front] = ports::many();
        let _server = Subject::under_test()
            .start(&inbound(server, json!({ "method": "aes-128-gcm", "password": "x" })))
            .await?;
        let mut stream = json!({ "network": "ws", "wsSettings": { "path": "/sip" } });
        if tls {
            stream["security"] = json!("tls");
            stream["tlsSettings"] = json!({ "certificates": [{
                "certificateFile": files["certificate_path"], "keyFile": files["key_path"],
            }] });
        }
        let to = if mux { "v1.mux.cool" } else { "127.0.0.1" };
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": front, "protocol": "dokodemo-door", "streamSettings": stream,
                "settings": { "address": to, "port": server, "network": "tcp" },
            }],
            "outbounds": [{ "protocol": "freedom", "settings": { "redirect": format!("127.0.0.1:{server}") } }],
        });
        let launch = Launch::new("xray", Peer::Xray.path()?)?;
        write_config(launch.dir(), &config)?;
        let args = ["run", "-c", "config.json"];
        let _peer = launch.args(args).ready([Ready::Tcp(front)]).start().await?;
        let mut options = format!("host=localhost;path=/sip;mux={}", u8::from(mux));
        if tls {
            let authority = authority.pem();
            let raw: String = authority.lines().filter(|line| !line.starts_with("--")).collect();
            options.push_str(&format!(";tls;certRaw={}", raw.replace('=', "\\=")));
        }
        let what = format!("v2ray-plugin to Xray, mux: {mux}, TLS: {tls}");
        through_plugin(front, link("v2ray-plugin", &options), &what).await?;
    }
    Ok(())
}
