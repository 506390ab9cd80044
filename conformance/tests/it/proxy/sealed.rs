//! Shadowsocks and Trojan, with the reference and mihomo on the other side: every method, both directions, streams and
//! datagrams; and what does not know the password.

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Naming, Origins},
    },
    ports,
    subject::Subject,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    mihomo::{base, mihomo, suites},
    stage::Ports,
};
use crate::tls::certs::{Certs, Files};

const METHODS: [&str; 9] = [
    "none",
    "aes-128-gcm",
    "aes-192-gcm",
    "aes-256-gcm",
    "chacha20-ietf-poly1305",
    "xchacha20-ietf-poly1305",
    "2022-blake3-aes-128-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
];

/// Keys in base64, 16 and 32 bytes long; any text for older methods.
const SHORT: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const LONG: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SHORT_USER: &str = "ZmVkY2JhOTg3NjU0MzIxMA==";
const LONG_USER: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// One way between two programs: the inbound of one and the outbound of the other.
struct Link {
    name: String,
    inbound: Value,
    outbound: Value,
}

fn shadowsocks() -> Vec<Link> {
    let mut links = Vec::new();
    for method in METHODS {
        let (password, user) =
            if method.ends_with("128-gcm") { (SHORT, SHORT_USER) } else { (LONG, LONG_USER) };
        let link = |name: String, inbound: Value, client: &str| Link {
            name,
            inbound,
            outbound: json!({ "type": "shadowsocks", "method": method, "password": client }),
        };
        let alone = json!({ "type": "shadowsocks", "method": method, "password": password });
        links.push(link(method.to_owned(), alone.clone(), password));
        if method == "none" || method.starts_with("2022") && method.contains("chacha20") {
            continue;
        }
        let mut shared = alone;
        shared["users"] = json!([
            { "name": "other", "password": if password == SHORT { "MTEyMzQ1Njc4OWFiY2RlZg==" } else { "MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" } },
            { "name": "ann", "password": user },
        ]);
        let new = method.starts_with("2022");
        let client = if new { format!("{password}:{user}") } else { user.to_owned() };
        if !new {
            shared["password"] = Value::Null;
        }
        links.push(link(format!("{method} with users"), shared, &client));
    }
    links
}

fn trojan(files: &Files) -> Vec<Link> {
    let users =
        json!([{ "name": "ann", "password": "secret" }, { "name": "bob", "password": "other" }]);
    let outbound = json!({ "type": "trojan", "password": "secret" });
    let plain = Link {
        name: "trojan without TLS".to_owned(),
        inbound: json!({ "type": "trojan", "users": users }),
        outbound: outbound.clone(),
    };
    let mut secured = outbound;
    secured["tls"] = json!({ "enabled": true, "server_name": "localhost", "insecure": true });
    let mut tls = files.server();
    tls["enabled"] = json!(true);
    let with_tls = Link {
        name: "trojan over TLS".to_owned(),
        inbound: json!({ "type": "trojan", "users": users, "tls": tls }),
        outbound: secured,
    };
    vec![plain, with_tls]
}

/// Runs every link between two programs: one process each, a port for each link.
async fn chain(front: &Subject, back: &Subject, links: &[Link]) -> Result<()> {
    let ports: Vec<[u16; 2]> = links.iter().map(|_| ports::many()).collect();
    let inbounds: Vec<Value> = links
        .iter()
        .zip(&ports)
        .map(|(link, [_, port])| {
            let mut inbound = link.inbound.clone();
            inbound["listen"] = json!("127.0.0.1");
            inbound["listen_port"] = json!(port);
            inbound
        })
        .collect();
    let back_config = json!({ "inbounds": inbounds, "outbounds": [{ "type": "direct" }] });
    let _back = back.start(&back_config).await.context("back")?;
    let entries = ports.iter().enumerate().map(|(n, [port, _])| {
        json!({ "type": "mixed", "tag": format!("in{n}"), "listen": "127.0.0.1", "listen_port": port })
    });
    let exits = links.iter().zip(&ports).enumerate().map(|(n, (link, [_, port]))| {
        let mut outbound = link.outbound.clone();
        outbound["tag"] = json!(format!("out{n}"));
        outbound["server"] = json!("127.0.0.1");
        outbound["server_port"] = json!(port);
        outbound
    });
    let rules = (0..links.len())
        .map(|n| json!({ "inbound": format!("in{n}"), "outbound": format!("out{n}") }));
    let front_config = json!({
        "inbounds": entries.collect::<Vec<_>>(),
        "outbounds": exits.collect::<Vec<_>>(),
        "route": { "rules": rules.collect::<Vec<_>>() },
    });
    let _front = front.start(&front_config).await.context("front")?;
    let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
    for (link, [port, _]) in links.iter().zip(&ports) {
        let via = Via::from(Socks::v5(Ports::v4(*port)));
        let what = || format!("{} -> {}, {}", front.name(), back.name(), link.name);
        for naming in [Naming::Address, Naming::Localhost] {
            tcp(front, &via, &v4, naming).await.with_context(what)?;
            suite::udp(&via, &v4, naming).await.with_context(what)?;
        }
        tcp(front, &via, &v6, Naming::Address).await.with_context(what)?;
        suite::udp(&via, &v6, Naming::Address).await.with_context(what)?;
    }
    Ok(())
}

/// The reference as a client of these protocols closes both directions when its own client ends one. With 2022 methods it
/// notes the salt of its request after it has sent it (sing-shadowsocks2, shadowaead_2022/method.go): on a busy machine the
/// answer of a server that talks first may be read before that, and is then refused. So it gets three chances.
async fn tcp(front: &Subject, via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    if !front.is_reference() {
        return suite::tcp(via, origins, naming).await;
    }
    let mut result = Ok(());
    for _ in 0..3 {
        result = suite::tcp_open(via, origins, naming).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

fn links() -> Result<(Certs, Vec<Link>)> {
    let authority = Certs::new("sealed")?;
    let files = authority.issue("server", &["localhost"])?;
    let mut links = shadowsocks();
    links.extend(trojan(&files));
    Ok((authority, links))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_the_reference() -> Result<()> {
    let (_authority, links) = links()?;
    chain(&Subject::under_test(), &Subject::Reference, &links).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_reference() -> Result<()> {
    let (_authority, links) = links()?;
    chain(&Subject::Reference, &Subject::under_test(), &links).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_mihomo() -> Result<()> {
    for (method, password) in [
        ("aes-128-gcm", "x"),
        ("2022-blake3-aes-256-gcm", LONG),
        ("2022-blake3-chacha20-poly1305", LONG),
    ] {
        let [server, entry] = ports::many();
        let _back = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "shadowsocks", "listen": "127.0.0.1", "listen_port": server, "method": method, "password": password }],
            }))
            .await?;
        let mut config = base(entry, false);
        config["proxies"] = json!([{
            "name": "link", "type": "ss", "server": "127.0.0.1", "port": server, "cipher": method,
            "password": password, "udp": true
        }]);
        config["rules"] = json!(["MATCH,link"]);
        let _peer = mihomo(&config, entry).await?;
        suites(entry, false, true, &format!("mihomo to our shadowsocks, {method}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_mihomo() -> Result<()> {
    for (method, password) in [
        ("aes-256-gcm", "x"),
        ("2022-blake3-aes-128-gcm", SHORT),
        ("2022-blake3-chacha20-poly1305", LONG),
    ] {
        let [server, entry, mixed] = ports::many();
        let mut config = base(mixed, false);
        config["listeners"] = json!([{
            "name": "in", "type": "shadowsocks", "listen": "127.0.0.1", "port": server,
            "cipher": method, "password": password, "udp": true
        }]);
        config["rules"] = json!(["MATCH,DIRECT"]);
        let _peer = mihomo(&config, mixed).await?;
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                "outbounds": [{ "type": "shadowsocks", "server": "127.0.0.1", "server_port": server, "method": method, "password": password }],
            }))
            .await?;
        suites(entry, false, true, &format!("our shadowsocks to mihomo, {method}")).await?;
    }
    Ok(())
}

/// Garbage, a wrong key and a replayed request: the connection ends, and the next client is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_served() -> Result<()> {
    let [old, new, trojan, fallback] = ports::many();
    let origin = Origins::v4().await?;
    let _back = Subject::under_test()
        .start(&json!({
            "inbounds": [
                { "type": "shadowsocks", "listen": "127.0.0.1", "listen_port": old, "method": "aes-128-gcm", "password": "x" },
                { "type": "shadowsocks", "listen": "127.0.0.1", "listen_port": new, "method": "2022-blake3-aes-128-gcm", "password": SHORT },
                { "type": "trojan", "listen": "127.0.0.1", "listen_port": trojan, "users": [{ "name": "a", "password": "secret" }] },
                { "type": "trojan", "listen": "127.0.0.1", "listen_port": fallback, "users": [{ "name": "a", "password": "secret" }],
                  "fallback": { "server": "127.0.0.1", "server_port": origin.echo.addr().port() } },
            ],
        }))
        .await?;
    for port in [old, new, trojan] {
        for garbage in
            [vec![0x5a; 600], vec![0; 90], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8)]
        {
            let mut stream = TcpStream::connect(Ports::v4(port)).await?;
            stream.write_all(&garbage).await?;
            let mut byte = [0; 1];
            let end =
                tokio::time::timeout(std::time::Duration::from_secs(20), stream.read(&mut byte));
            let end = end.await.context("a stranger is kept")?;
            ensure!(!matches!(end, Ok(1..)), "a stranger is answered on port {port}");
        }
    }
    // What does not speak Trojan reaches the other server, from its first byte on.
    let mut stream = TcpStream::connect(Ports::v4(fallback)).await?;
    stream.write_all(b"not trojan at all").await?;
    let mut echo = [0; 17];
    stream.read_exact(&mut echo).await.context("fallback")?;
    ensure!(&echo == b"not trojan at all");

    // The right ones still come through; a wrong key does not.
    for (password, served) in [("x", true), ("y", false)] {
        let entry = ports::free();
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                "outbounds": [{ "type": "shadowsocks", "server": "127.0.0.1", "server_port": old, "method": "aes-128-gcm", "password": password }],
            }))
            .await?;
        let via = Via::from(Socks::v5(Ports::v4(entry)));
        let result = suite::tcp_ping_pong(&via, &origin.echo.addr().into()).await;
        ensure!(result.is_ok() == served, "{password}: {result:?}");
    }
    Ok(())
}
