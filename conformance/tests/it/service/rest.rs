//! A client of `ssm-api`, and configurations with one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Keys of 2022-blake3-aes-128-gcm: the server's, and users'.
pub(super) const SERVER: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
pub(super) const KEYS: [&str; 3] =
    ["ZmVkY2JhOTg3NjU0MzIxMA==", "MTEyMzQ1Njc4OWFiY2RlZg==", "MjIyMzQ1Njc4OWFiY2RlZg=="];
pub(super) const METHOD: &str = "2022-blake3-aes-128-gcm";

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// Asks on a connection of its own.
pub(super) async fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<Answer> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await??;
    let text = String::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| text.clone())?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("status")?.parse()?;
    let kind = lines.filter_map(|line| line.split_once(": "));
    let kind = kind.filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let kind = kind.map(|(_, value)| value.to_owned()).next().unwrap_or_default();
    Ok(Answer { status, kind, body: body.to_owned() })
}

/// Asks, and fails unless the status is the one that is wanted.
pub(super) async fn expect(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
    status: u16,
) -> Result<Answer> {
    let answer = ask(port, method, path, body).await?;
    ensure!(answer.status == status, "{method} {path} {body}: {answer:?}");
    Ok(answer)
}

/// Adds a user.
pub(super) async fn add(port: u16, name: &str, key: &str) -> Result<()> {
    let body = json!({ "username": name, "uPSK": key }).to_string();
    expect(port, "POST", "/server/v1/users", &body, 201).await.map(drop)
}

/// What a user has moved: bytes up and down, packets up and down, streams, associations.
pub(super) async fn moved(port: u16, name: &str) -> Result<[u64; 6]> {
    let path = format!("/server/v1/users/{name}");
    let user = expect(port, "GET", &path, "", 200).await?.json()?;
    sums(&user)
}

/// The same of an object.
pub(super) fn sums(of: &Value) -> Result<[u64; 6]> {
    let keys = [
        "uplinkBytes",
        "downlinkBytes",
        "uplinkPackets",
        "downlinkPackets",
        "tcpSessions",
        "udpSessions",
    ];
    let mut sums = [0; 6];
    for (sum, key) in sums.iter_mut().zip(keys) {
        *sum = of[key].as_u64().with_context(|| format!("{key} in {of}"))?;
    }
    Ok(sums)
}

/// A server with managed users.
pub(super) fn managed(api: u16, server: u16) -> Value {
    json!({
        "log": { "level": "debug" },
        "inbounds": [{
            "type": "shadowsocks", "tag": "ss", "listen": "127.0.0.1", "listen_port": server,
            "method": METHOD, "password": SERVER, "managed": true
        }],
        "outbounds": [{ "type": "direct" }],
        "services": [{
            "type": "ssm-api", "tag": "api", "listen": "127.0.0.1", "listen_port": api,
            "servers": { "/": "ss" }, "cache_path": "users.json"
        }],
    })
}

/// A client for each user: a SOCKS inbound with its own way out.
pub(super) fn clients(server: u16, users: &[(u16, &str)]) -> Value {
    let entries = users.iter().enumerate().map(|(n, (port, _))| {
        json!({ "type": "mixed", "tag": format!("in{n}"), "listen": "127.0.0.1", "listen_port": port })
    });
    let exits = users.iter().enumerate().map(|(n, (_, key))| {
        json!({
            "type": "shadowsocks", "tag": format!("out{n}"), "server": "127.0.0.1", "server_port": server,
            "method": METHOD, "password": format!("{SERVER}:{key}")
        })
    });
    let rules = (0..users.len())
        .map(|n| json!({ "inbound": format!("in{n}"), "outbound": format!("out{n}") }));
    json!({
        "log": { "level": "warn" },
        "inbounds": entries.collect::<Vec<_>>(),
        "outbounds": exits.collect::<Vec<_>>(),
        "route": { "rules": rules.collect::<Vec<_>>() },
    })
}
