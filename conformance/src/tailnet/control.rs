//! A control server: nodes register, and are told of each other and of a DERP map. Nothing of what a real one has beyond
//! that: no log-in, no keys that expire, no rules but "all may".

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use h2::{RecvStream, SendStream, server::SendResponse};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::noise;
use crate::loud;

/// A node, as it is told to others; by its key.
type Nodes = BTreeMap<String, Value>;

struct Shared {
    key: noise::Server,
    derp_map: Value,
    /// Who has which number in the tailnet: these names the first ones, others as they come.
    names: Vec<String>,
    nodes: Mutex<Nodes>,
    changes: watch::Sender<u64>,
    log: Mutex<Vec<String>>,
}

/// The server; ends when it is dropped.
pub struct Control {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.addr)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Control {
    /// Serves on a socket, which may stand in another network namespace. The node of that hostname which stands
    /// first in `names` gets 100.64.0.1, and so on. `GET /derpmap.json` answers with the map, too.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn serve(listener: StdListener, derp_map: Value, names: &[&str]) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            key: noise::Server::generate()?,
            derp_map,
            names: names.iter().map(ToString::to_string).collect(),
            nodes: Mutex::default(),
            changes: watch::Sender::new(0),
            log: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { addr, shared, task })
    }

    /// What happened, for error texts.
    pub fn log(&self) -> String {
        lock(&self.shared.log).join("\n")
    }

    /// The address in the tailnet of the `number`-th name, from 0.
    pub fn address(number: usize) -> String {
        format!("100.64.0.{}", number + 1)
    }

    /// The home region that a node has reported, by its hostname.
    pub fn home(&self, name: &str) -> Option<u64> {
        let nodes = lock(&self.shared.nodes);
        let node = nodes.values().find(|node| node["Hostinfo"]["Hostname"] == name)?;
        node["HomeDERP"].as_u64()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    fn say(&self, text: String) {
        if std::env::var_os("CONFORMANCE_TAILNET_LOG").is_some() {
            loud::line(&text);
        }
        lock(&self.log).push(text);
    }

    fn register(&self, request: &Value) -> Result<Value> {
        let key = request["NodeKey"].as_str().context("no NodeKey")?.to_owned();
        let host = &request["Hostinfo"];
        let name = host["Hostname"].as_str().unwrap_or_default();
        self.say(format!("register {name} {}", key.get(..20).unwrap_or(&key)));
        let mut nodes = lock(&self.nodes);
        let known = self.names.iter().position(|known| known == name);
        // A node that came back with another key takes its number over.
        if known.is_some() {
            nodes.retain(|other, node| *other == key || node["Hostinfo"]["Hostname"] != name);
        }
        let number = known.unwrap_or(self.names.len() + nodes.len()) + 1;
        let addresses =
            json!([format!("100.64.0.{number}/32"), format!("fd7a:115c:a1e0::{number}/128")]);
        nodes.entry(key.clone()).or_insert_with(|| {
            json!({
                "ID": number, "StableID": format!("N{number}"), "Name": format!("{name}.tail.test."),
                "User": 1, "Key": key, "Machine": format!("mkey:{}", "00".repeat(32)),
                "KeyExpiry": "0001-01-01T00:00:00Z", "Addresses": addresses, "AllowedIPs": addresses,
                "MachineAuthorized": true, "Hostinfo": host, "Created": "2026-01-01T00:00:00Z",
                "Cap": request["Version"], "Online": true,
            })
        });
        Ok(json!({
            "User": { "ID": 1, "DisplayName": "u", "Created": "2026-01-01T00:00:00Z" },
            "Login": { "ID": 1, "Provider": "test", "LoginName": "u@test", "DisplayName": "u" },
            "MachineAuthorized": true, "NodeKeyExpired": false, "AuthURL": "", "Error": "",
        }))
    }

    /// Takes over what a node says of itself, and wakes the others if it is news.
    fn update(&self, key: &str, request: &Value) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(key) else { return };
        let before = node.clone();
        node["DiscoKey"] = request["DiscoKey"].clone();
        node["Endpoints"] = json!(request["Endpoints"].as_array().cloned().unwrap_or_default());
        if request["Hostinfo"].is_object() {
            node["Hostinfo"] = request["Hostinfo"].clone();
            if let Some(home) =
                request["Hostinfo"]["NetInfo"]["PreferredDERP"].as_u64().filter(|home| *home > 0)
            {
                node["HomeDERP"] = json!(home);
                node["DERP"] = json!(format!("127.3.3.40:{home}"));
            }
        }
        if *node != before {
            self.say(format!(
                "update {} home {} at {}",
                node["Name"], node["HomeDERP"], node["Endpoints"]
            ));
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The whole map, for one node.
    fn map(&self, key: &str) -> Value {
        let nodes = lock(&self.nodes);
        let others =
            nodes.iter().filter(|(other, node)| *other != key && node["DiscoKey"].is_string());
        let peers: Vec<Value> = others.map(|(_, node)| node.clone()).collect();
        json!({
            "Node": nodes.get(key), "DERPMap": self.derp_map, "Peers": peers, "Domain": "tail.test",
            "UserProfiles": [{ "ID": 1, "LoginName": "u@test", "DisplayName": "u" }],
            "PacketFilter": [{
                "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }]
            }],
            "DNSConfig": { "Proxied": true, "Domains": ["tail.test"], "Routes": { "tail.test": [] } },
            "CollectServices": false,
        })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, &shared).await {
                shared.say(format!("connection: {error:#}"));
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Requests of HTTP/1.1, until one of them leaves it.
async fn connection(mut stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    loop {
        let Some(head) = head(&mut stream).await? else { return Ok(()) };
        let path = head.split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        if path.starts_with("/ts2021") {
            let hello = header("X-Tailscale-Handshake").context("no handshake")?;
            let hello = BASE64_STANDARD.decode(hello)?;
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n")
                .await?;
            let (plain, pump) = noise::accept(&shared.key, &hello, stream).await?;
            tokio::try_join!(pump, requests(plain, shared))?;
            return Ok(());
        }
        let body = match path {
            _ if path.starts_with("/key") => {
                let key = |bytes: [u8; 32]| format!("mkey:{}", super::derp::hex(&bytes));
                json!({ "legacyPublicKey": key([0; 32]), "publicKey": key(shared.key.public) })
                    .to_string()
            }
            "/derpmap.json" => shared.derp_map.to_string(),
            _ => String::new(),
        };
        let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await?;
        if header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

async fn head(stream: &mut TcpStream) -> Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        ensure!(head.len() < 16 << 10, "an endless head");
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Requests of HTTP/2.
async fn requests(plain: tokio::io::DuplexStream, shared: &Arc<Shared>) -> Result<()> {
    let mut connection = h2::server::handshake(plain).await?;
    let mut running = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let shared = shared.clone();
        running.spawn(async move {
            let path = request.uri().path().to_owned();
            if let Err(error) = request_of(&path, request.into_body(), respond, &shared).await {
                shared.say(format!("{path}: {error:#}"));
            }
        });
    }
    Ok(())
}

async fn request_of(
    path: &str,
    body: RecvStream,
    mut respond: SendResponse<bytes::Bytes>,
    shared: &Shared,
) -> Result<()> {
    let request: Value = serde_json::from_slice(&whole(body).await?).unwrap_or_default();
    let mut start = |status: u16, end: bool| {
        let response = http::Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(())?;
        anyhow::Ok(respond.send_response(response, end)?)
    };
    match path {
        "/machine/register" => {
            let answer = shared.register(&request)?.to_string();
            start(200, false)?.send_data(answer.into(), true)?;
        }
        "/machine/map" => {
            let key = request["NodeKey"].as_str().context("no NodeKey")?;
            if !lock(&shared.nodes).contains_key(key) {
                start(404, true)?;
                return Ok(());
            }
            let streams = request["Stream"] == true;
            // Who streams has said these things in a request before.
            if !streams || request["Version"].as_u64() < Some(68) {
                shared.update(key, &request);
            }
            let zstd = request["Compress"] == "zstd";
            let mut out = start(200, false)?;
            if streams {
                shared.say(format!("stream for {}", key.get(..20).unwrap_or(key)));
                follow(key, zstd, out, shared).await?;
            } else if request["OmitPeers"] == true {
                out.send_data(Default::default(), true)?;
            } else {
                out.send_data(framed(&shared.map(key), zstd).into(), true)?;
            }
        }
        _ => {
            start(404, true)?;
        }
    }
    Ok(())
}

/// Sends the map now and after every change, and a sign of life between.
async fn follow(
    key: &str,
    zstd: bool,
    mut out: SendStream<bytes::Bytes>,
    shared: &Shared,
) -> Result<()> {
    let mut changes = shared.changes.subscribe();
    // The others see this node from now on.
    if let Some(node) = lock(&shared.nodes).get_mut(key) {
        node["Online"] = json!(true);
    }
    loop {
        changes.mark_unchanged();
        out.send_data(framed(&shared.map(key), zstd).into(), false)?;
        while tokio::time::timeout(Duration::from_secs(50), changes.changed()).await.is_err() {
            out.send_data(framed(&json!({ "KeepAlive": true }), zstd).into(), false)?;
        }
        // Changes come in groups.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn whole(mut body: RecvStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
        ensure!(bytes.len() < 1 << 20, "a large request");
    }
    Ok(bytes)
}

/// A little-endian length and the message, as zstd if that was asked for: one frame of blocks that are not compressed
/// (RFC 8878 §3.1.1: magic, one segment with four bytes of size, blocks of at most 128 KiB).
fn framed(message: &Value, zstd: bool) -> Vec<u8> {
    let plain = message.to_string().into_bytes();
    let mut bytes = Vec::new();
    if zstd {
        bytes.extend([0x28, 0xb5, 0x2f, 0xfd, 0xa0]);
        bytes.extend((plain.len() as u32).to_le_bytes());
        let mut blocks = plain.chunks(64 << 10).peekable();
        while let Some(block) = blocks.next() {
            let head = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
            bytes.extend(&head.to_le_bytes()[..3]);
            bytes.extend(block);
        }
    } else {
        bytes = plain;
    }
    [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat()
}
