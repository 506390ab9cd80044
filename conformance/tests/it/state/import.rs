//! A cache file that the reference wrote itself is taken over, with everything that is in it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::ports;
use crosspoint_conformance::process::Ready;
use crosspoint_conformance::subject::Subject;
use crosspoint_kernel::resolve::Family;
use crosspoint_kernel::state::State;
use crosspoint_store::{Options, Store};
use serde_json::{Value, json};

use super::{chosen, config, start};

const RULES: &str = r#"{"version": 1, "rules": [{"domain": "in-the-set.test"}]}"#;

#[tokio::test]
async fn a_file_of_the_reference_is_imported_once() -> Result<()> {
    for cache_id in ["", "mine"] {
        let dir = tempfile::tempdir()?;
        let cache = dir.path().join("cache.db");
        fill(&cache, cache_id).await.with_context(|| format!("cache_id {cache_id:?}"))?;
        if cache_id.is_empty() {
            // The daemon uses it at once.
            let mut daemon = start(&config(ports::free(), &cache)).await?;
            ensure!(chosen(&daemon)? == "b", "{}", daemon.log());
            ensure!(daemon.log().contains("was one of sing-box: imported"), "{}", daemon.log());
            daemon.stop().await?;
        }
        check(&cache, cache_id).with_context(|| format!("cache_id {cache_id:?}"))?;
        // The old one is kept, and the reference still reads it.
        let kept = dir.path().join("cache.db.bbolt");
        ensure!(std::fs::read_dir(dir.path())?.count() == 2);
        let api = ports::free();
        let mut reference = Subject::Reference.start(&reference(&kept, cache_id, api)).await?;
        let group: Value = serde_json::from_str(&http(api, "GET", "/proxies/choice", "")?)?;
        ensure!(group["now"] == "b", "{group}");
        reference.stop().await?;
    }
    Ok(())
}

/// What the import must have found.
fn check(cache: &Path, cache_id: &str) -> Result<()> {
    let rejected = Some(Duration::from_secs(600));
    let options = |id: &str| Options { cache_id: id.to_owned(), fakeip: true, rejected };
    let store = Store::open(cache, options(cache_id))?;
    ensure!(store.selected("choice").as_deref() == Some("b"));
    ensure!(store.clash_mode().as_deref() == Some("Global"), "{:?}", store.clash_mode());
    let set = store.rule_set("set").context("the rule-set is missing")?;
    ensure!(set.content == RULES && set.etag == "\"v7\"", "{set:?}");
    let age = SystemTime::now().duration_since(set.updated)?;
    // The daemon may have been built in between.
    ensure!(age < Duration::from_secs(3600), "{age:?}");
    ensure!(store.rejected("up", "rejected.test", 1));
    ensure!(!store.rejected("up", "other.test", 1));
    let fake = store.fake().context("no fake addresses")?;
    let pool = fake.pool().context("no pool")?;
    ensure!(pool.range4.is_some_and(|range| range.bits == 15), "{pool:?}");
    ensure!(pool.last4.is_some(), "{pool:?}");
    let entries = fake.entries();
    ensure!(entries.len() == 2, "{entries:?}");
    for (ip, name) in entries {
        ensure!(name.ends_with("fake.test"), "{name}");
        ensure!(fake.address(&name, Family::V4) == Some(ip));
        let IpAddr::V4(ip) = ip else { bail!("{ip}") };
        ensure!(Some(ip) <= pool.last4, "{ip} {pool:?}");
    }
    if !cache_id.is_empty() {
        drop(store);
        ensure!(Store::open(cache, options(""))?.selected("choice").is_none());
    }
    Ok(())
}

fn reference(cache: &Path, cache_id: &str, api: u16) -> Value {
    let mut config = config(ports::free(), cache);
    let file = json!({
        "enabled": true, "path": cache, "cache_id": cache_id,
        "store_fakeip": true, "store_rdrc": true
    });
    config["experimental"] = json!({
        "cache_file": file,
        "clash_api": { "external_controller": format!("127.0.0.1:{api}"), "default_mode": "Rule" }
    });
    config
}

/// Lets the reference write one value of each kind.
async fn fill(cache: &Path, cache_id: &str) -> Result<()> {
    let (api, dns) = (ports::free(), ports::free());
    let (upstream, _up) = dns_server()?;
    let (rules, _web) = web_server()?;
    let mut config = reference(cache, cache_id, api);
    config["inbounds"] = json!([
        { "type": "direct", "tag": "dns-in", "network": "udp", "listen": "127.0.0.1", "listen_port": dns }
    ]);
    config["dns"] = json!({
        "servers": [
            { "type": "udp", "tag": "up", "server": "127.0.0.1", "server_port": upstream.port() },
            { "type": "fakeip", "tag": "fake", "inet4_range": "198.18.0.0/15" },
            { "type": "hosts", "tag": "last", "predefined": { "rejected.test": "192.0.2.7" } }
        ],
        "rules": [
            { "domain_suffix": "fake.test", "server": "fake" },
            // The answer of the upstream is outside of this. (A name would do instead of the address.)
            { "query_type": "A", "ip_cidr": "10.0.0.0/8", "server": "up" },
            // Makes the reference look at modes, and knows them.
            { "clash_mode": "Global", "domain": "never.test", "server": "last" }
        ],
        "final": "last"
    });
    config["route"] = json!({
        "rules": [
            { "inbound": "dns-in", "action": "hijack-dns" },
            { "rule_set": "set", "outbound": "choice" }
        ],
        "rule_set": [{
            "type": "remote", "tag": "set", "format": "source",
            "url": format!("http://{rules}/set.json"), "download_detour": "a"
        }]
    });
    let mut reference =
        Subject::Reference.launch(&config)?.ready([Ready::Udp(dns)]).start().await?;
    http(api, "PUT", "/proxies/choice", r#"{"name": "b"}"#)?;
    http(api, "PATCH", "/configs", r#"{"mode": "Global"}"#)?;
    for name in ["one.fake.test", "two.fake.test", "rejected.test"] {
        ask(dns, name).with_context(|| reference.log_tail())?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    reference.stop().await?;
    ensure!(cache.is_file());
    Ok(())
}

/// One request to the API of the reference.
fn http(port: u16, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    Ok(body.to_owned())
}

/// Asks for the IPv4 address of a name, until there is an answer.
fn ask(port: u16, name: &str) -> Result<()> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut answer = [0; 512];
    let mut once = || {
        socket.send_to(&query, ("127.0.0.1", port))?;
        socket.recv(&mut answer)
    };
    // The reference loses queries through its `direct` inbound now and then.
    let length = once().or_else(|_| once()).or_else(|_| once());
    let length = length.with_context(|| format!("ask for {name}"))?;
    ensure!(length > query.len() && answer[3] & 15 == 0, "{name}: {:?}", &answer[..length]);
    Ok(())
}

/// Says that every name is 192.0.2.1.
fn dns_server() -> Result<(SocketAddr, Server)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let addr = socket.local_addr()?;
    let thread = move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            if length < 13 {
                return;
            }
            // The question ends behind a name, a type and a class; what follows is EDNS.
            let name = query[12..length].iter().position(|byte| *byte == 0).unwrap_or(0);
            let mut answer = query[..(12 + name + 5).min(length)].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            let _ = socket.send_to(&answer, from);
        }
    };
    std::thread::spawn(thread);
    Ok((addr, Server { addr, udp: true }))
}

/// Serves the rule-set with an ETag.
fn web_server() -> Result<(SocketAddr, Server)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let thread = move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 2048];
            if !matches!(stream.read(&mut request), Ok(1..)) {
                return;
            }
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nETag: \"v7\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{RULES}",
                RULES.len()
            );
        }
    };
    std::thread::spawn(thread);
    Ok((addr, Server { addr, udp: false }))
}

/// Ends its server by an empty request when it is dropped.
struct Server {
    addr: SocketAddr,
    udp: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.udp {
            let _ =
                UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.addr));
        } else {
            let _ = std::net::TcpStream::connect(self.addr);
        }
    }
}
