//! VMess, with the reference and mihomo on the other side: every security with sealed requests and those of the legacy
//! protocol, every way of making chunks, every packet encoding, both directions; and what does not know the id.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Target, Via,
        origin::Origin,
        suite::{self, Naming, Origins},
    },
    peers::Peer,
    ports,
    process::{Launch, Ready, Running},
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    mihomo::{base, mihomo, suites},
    stage::Ports,
};

const ID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

/// One way between two programs.
struct Link {
    name: String,
    outbound: Value,
    /// Whether datagrams may go to names, and to several peers of one association.
    datagrams: Datagrams,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Datagrams {
    OnePeer,
    Addresses,
    Any,
}

/// The users of all servers; not every id is a UUID.
fn users() -> Value {
    json!([
        { "name": "other", "uuid": "somebody" },
        { "name": "ann", "uuid": ID, "alterId": 4 },
    ])
}

fn links() -> Vec<Link> {
    let mut links = Vec::new();
    let mut push = |name: String, mut outbound: Value, datagrams| {
        outbound["type"] = json!("vmess");
        outbound["uuid"] = json!(ID);
        links.push(Link { name, outbound, datagrams });
    };
    let all = ["auto", "none", "zero", "aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];
    for (security, alter_id) in all.into_iter().flat_map(|name| [(name, 0), (name, 1)]) {
        let name = format!("{security}, alter id {alter_id}");
        let outbound = json!({ "security": security, "alter_id": alter_id });
        push(name.clone(), outbound.clone(), Datagrams::OnePeer);
        if matches!(security, "aes-128-gcm" | "chacha20-poly1305") {
            for (padding, sealed) in [(true, false), (false, true), (true, true)] {
                let mut outbound = outbound.clone();
                outbound["global_padding"] = json!(padding);
                outbound["authenticated_length"] = json!(sealed);
                let name = format!("{name}, padding {padding}, sealed lengths {sealed}");
                push(name, outbound, Datagrams::OnePeer);
            }
        }
        // One with chunks, one without, one in a cipher around everything.
        if matches!(security, "zero" | "aes-128-cfb" | "chacha20-poly1305") {
            for (encoding, datagrams) in
                [("packetaddr", Datagrams::Addresses), ("xudp", Datagrams::Any)]
            {
                let mut outbound = outbound.clone();
                outbound["packet_encoding"] = json!(encoding);
                push(format!("{name}, {encoding}"), outbound, datagrams);
            }
        }
    }
    links
}

fn plain(outbound: Value) -> Link {
    Link { name: outbound.to_string(), outbound, datagrams: Datagrams::OnePeer }
}

/// Runs every link between two programs: one server for all of them, a port of the client for each.
async fn chain(front: &Subject, back: &Subject, links: &[Link]) -> Result<()> {
    let server = ports::free();
    let back_config = json!({
        "inbounds": [{ "type": "vmess", "listen": "127.0.0.1", "listen_port": server, "users": users() }],
        "outbounds": [{ "type": "direct" }],
    });
    let _back = back.start(&back_config).await.context("back")?;
    let ports: Vec<u16> = links.iter().map(|_| ports::free()).collect();
    let (_front, (v4, v6)) = (clients(front, links, &ports, server).await?, origins().await?);
    for (link, port) in links.iter().zip(&ports) {
        let socks = Socks::v5(Ports::v4(*port));
        let via = Via::from(socks.clone());
        let what = || format!("{} -> {}, {}", front.name(), back.name(), link.name);
        tcp(front, &via, &v4, Naming::Address).await.with_context(what)?;
        suite::udp(&via, &v4, Naming::Address).await.with_context(what)?;
        // Names and other addresses: the security makes no difference.
        if link.outbound["security"] == json!("auto") || link.datagrams != Datagrams::OnePeer {
            tcp(front, &via, &v4, Naming::Localhost).await.with_context(what)?;
            suite::udp(&via, &v6, Naming::Address).await.with_context(what)?;
            if link.datagrams != Datagrams::Addresses {
                suite::udp(&via, &v4, Naming::Localhost).await.with_context(what)?;
            }
        }
        if link.datagrams != Datagrams::OnePeer {
            two_peers(&socks, &v4).await.with_context(what)?;
        }
        if !front.is_reference() && !back.is_reference() {
            suite::udp_largest(&via, &v4, Naming::Address).await.with_context(what)?;
        }
    }
    Ok(())
}

/// A client with a port for each link.
async fn clients(front: &Subject, links: &[Link], ports: &[u16], server: u16) -> Result<Running> {
    let entries = ports.iter().enumerate().map(|(n, port)| {
        json!({ "type": "mixed", "tag": format!("in{n}"), "listen": "127.0.0.1", "listen_port": port })
    });
    let exits = links.iter().enumerate().map(|(n, link)| {
        let mut outbound = link.outbound.clone();
        outbound["tag"] = json!(format!("out{n}"));
        outbound["server"] = json!("127.0.0.1");
        outbound["server_port"] = json!(server);
        outbound
    });
    let rules = (0..links.len())
        .map(|n| json!({ "inbound": format!("in{n}"), "outbound": format!("out{n}") }));
    let config = json!({
        "inbounds": entries.collect::<Vec<_>>(),
        "outbounds": exits.collect::<Vec<_>>(),
        "route": { "rules": rules.collect::<Vec<_>>() },
    });
    front.start(&config).await.context("front")
}

async fn origins() -> Result<(Origins, Origins)> {
    Ok((Origins::v4().await?, Origins::v6().await?))
}

/// The reference as a client of these protocols closes both directions when its own client ends one.
async fn tcp(front: &Subject, via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    if front.is_reference() {
        suite::tcp_open(via, origins, naming).await
    } else {
        suite::tcp(via, origins, naming).await
    }
}

/// One association, two peers.
async fn two_peers(socks: &Socks, origins: &Origins) -> Result<()> {
    let (association, other) = (socks.associate().await?, Origin::udp_echo("127.0.0.1:0").await?);
    let peers: [Target; 2] = [origins.udp.addr().into(), other.addr().into()];
    for (n, peer) in peers.iter().chain(&peers).enumerate() {
        let payload = format!("number {n}");
        association.send_to(peer, payload.as_bytes()).await?;
        let (from, answer) = timeout(Duration::from_secs(10), association.recv_from())
            .await
            .with_context(|| format!("no answer of {peer:?}"))??;
        ensure!(answer == payload.as_bytes() && from == *peer, "{n}: {from:?} says {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_the_reference() -> Result<()> {
    chain(&Subject::under_test(), &Subject::Reference, &links()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_reference() -> Result<()> {
    chain(&Subject::Reference, &Subject::under_test(), &links()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ourselves_with_the_largest_datagrams() -> Result<()> {
    let links: Vec<Link> = links()
        .into_iter()
        .filter(|link| link.outbound["global_padding"] != json!(true))
        .filter(|link| link.outbound["alter_id"] == json!(0))
        .collect();
    chain(&Subject::under_test(), &Subject::under_test(), &links).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_mihomo() -> Result<()> {
    for (cipher, alter_id, more) in [
        ("auto", 0, json!({})),
        ("none", 0, json!({})),
        ("zero", 0, json!({ "packet-encoding": "xudp" })),
        ("aes-128-gcm", 4, json!({})),
        ("chacha20-poly1305", 0, json!({ "packet-encoding": "packetaddr" })),
        (
            "aes-128-gcm",
            0,
            json!({ "global-padding": true, "authenticated-length": true, "packet-encoding": "xudp" }),
        ),
    ] {
        let [server, entry] = ports::many();
        let _back = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "vmess", "listen": "127.0.0.1", "listen_port": server, "users": users() }],
            }))
            .await?;
        let mut config = base(entry, false);
        let mut proxy = json!({
            "name": "link", "type": "vmess", "server": "127.0.0.1", "port": server, "uuid": ID,
            "alterId": alter_id, "cipher": cipher, "udp": true
        });
        merge(&mut proxy, &more);
        config["proxies"] = json!([proxy]);
        config["rules"] = json!(["MATCH,link"]);
        let _peer = mihomo(&config, entry).await?;
        suites(entry, false, true, &format!("mihomo to our vmess, {cipher} {alter_id} {more}"))
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_mihomo() -> Result<()> {
    let [server, mixed] = ports::many();
    let mut config = base(mixed, false);
    config["listeners"] = json!([{
        "name": "in", "type": "vmess", "listen": "127.0.0.1", "port": server,
        "users": [{ "username": "ann", "uuid": ID, "alterId": 0 }]
    }]);
    config["rules"] = json!(["MATCH,DIRECT"]);
    let _peer = mihomo(&config, mixed).await?;
    for more in [
        json!({ "security": "auto" }),
        json!({ "security": "none" }),
        json!({ "security": "aes-128-gcm", "packet_encoding": "packetaddr" }),
        json!({ "security": "chacha20-poly1305", "packet_encoding": "xudp" }),
        json!({ "security": "aes-128-gcm", "global_padding": true, "authenticated_length": true }),
    ] {
        let entry = ports::free();
        let mut outbound =
            json!({ "type": "vmess", "server": "127.0.0.1", "server_port": server, "uuid": ID });
        merge(&mut outbound, &more);
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                "outbounds": [outbound],
            }))
            .await?;
        suites(entry, false, true, &format!("our vmess to mihomo, {more}")).await?;
    }
    Ok(())
}

/// Runs Xray until `port` is open.
async fn xray(config: &Value, port: u16) -> Result<Running> {
    let launch = Launch::new("xray", Peer::Xray.path()?)?;
    write_config(launch.dir(), config)?;
    let file = format!("{}/config.json", launch.dir().to_string_lossy());
    launch.args(["run".to_owned(), "-c".to_owned(), file]).ready([Ready::Tcp(port)]).start().await
}

/// mux.cool and XUDP of Xray, which made them: streams and datagrams in the streams of our server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_sessions_of_xray() -> Result<()> {
    for (what, mux) in [
        ("alone", json!({ "enabled": false })),
        ("all in one", json!({ "enabled": true, "concurrency": 8 })),
        ("apart", json!({ "enabled": true, "concurrency": 8, "xudpConcurrency": 16 })),
        ("datagrams only", json!({ "enabled": true, "concurrency": -1 })),
    ] {
        let [server, entry] = ports::many();
        let _back = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "vmess", "listen": "127.0.0.1", "listen_port": server, "users": users() }],
            }))
            .await?;
        let users = json!([{ "id": ID, "security": "auto" }]);
        let config = json!({
            "log": { "loglevel": "warning" },
            "inbounds": [{
                "listen": "127.0.0.1", "port": entry, "protocol": "socks",
                "settings": { "udp": true, "ip": "127.0.0.1" },
            }],
            "outbounds": [{
                "protocol": "vmess", "mux": mux,
                "settings": { "vnext": [{ "address": "127.0.0.1", "port": server, "users": users }] },
            }],
        });
        let _front = xray(&config, entry).await?;
        let (v4, v6) = origins().await?;
        let via = Via::from(Socks::v5(Ports::v4(entry)));
        // Several at a time, so that they share a stream.
        let one = || suite::tcp_open(&via, &v4, Naming::Address);
        tokio::try_join!(one(), one(), one()).context(what)?;
        suite::tcp_open(&via, &v6, Naming::Address).await.context(what)?;
        // Xray loses much of what comes in a burst before it has dialled, with the reference's server as well.
        for origins in [&v4, &v6] {
            let target = Naming::Address.target(origins.udp.addr());
            suite::udp_ping_pong(&via, &target).await.context(what)?;
            suite::udp_many(&via, &target, 4, 1500).await.context(what)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_xray() -> Result<()> {
    let server = ports::free();
    let config = json!({
        "log": { "loglevel": "warning" },
        "inbounds": [{
            "listen": "127.0.0.1", "port": server, "protocol": "vmess",
            "settings": { "clients": [{ "id": ID }] },
        }],
        "outbounds": [{ "protocol": "freedom" }],
    });
    let _back = xray(&config, server).await?;
    let links: Vec<Link> = links()
        .into_iter()
        .filter(|link| link.outbound["alter_id"] == json!(0))
        // What Xray has no more.
        .filter(|link| link.outbound["security"] != json!("aes-128-cfb"))
        .filter(|link| link.datagrams != Datagrams::Addresses)
        .collect();
    let ports: Vec<u16> = links.iter().map(|_| ports::free()).collect();
    let _front = clients(&Subject::under_test(), &links, &ports, server).await?;
    let (v4, _) = origins().await?;
    for (link, port) in links.iter().zip(&ports) {
        let via = Via::from(Socks::v5(Ports::v4(*port)));
        // Xray ends both directions soon after one.
        suite::tcp_open(&via, &v4, Naming::Address).await.with_context(|| link.name.clone())?;
        suite::udp(&via, &v4, Naming::Address).await.with_context(|| link.name.clone())?;
    }
    Ok(())
}

fn merge(into: &mut Value, more: &Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more.clone());
    }
}

/// Writes bytes and waits for the end. Returns what came back, or nothing when the server keeps the connection.
async fn told(port: u16, bytes: &[u8], end: bool) -> Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(Ports::v4(port)).await?;
    stream.write_all(bytes).await?;
    if end {
        stream.shutdown().await?;
    }
    let mut answer = Vec::new();
    match timeout(Duration::from_secs(3), stream.read_to_end(&mut answer)).await {
        Err(_) => Ok(None),
        Ok(_) => Ok(Some(answer)),
    }
}

/// A port that passes one connection on to `to`, and notes what the client has sent.
async fn wiretap(to: u16) -> Result<(u16, Arc<Mutex<Vec<u8>>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let noted = heard.clone();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await?;
        let server = TcpStream::connect(Ports::v4(to)).await?;
        let ((mut from, mut back), (mut answers, mut on)) =
            (client.into_split(), server.into_split());
        let down = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut bytes = vec![0; 65536];
        loop {
            let len = from.read(&mut bytes).await?;
            if len == 0 {
                break;
            }
            noted.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.extend(&bytes[..len]);
            on.write_all(&bytes[..len]).await?;
        }
        on.shutdown().await?;
        down.await??;
        anyhow::Ok(())
    });
    Ok((port, heard))
}

/// Garbage, a wrong id, a replayed and a cut off request: the connection ends without a byte, with us as with the
/// reference, and the next client is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_served() -> Result<()> {
    let origin = Origins::v4().await?;
    let echo: Target = origin.echo.addr().into();
    for back in [Subject::under_test(), Subject::Reference] {
        let server = ports::free();
        let _back = back
            .start(&json!({
                "inbounds": [{ "type": "vmess", "listen": "127.0.0.1", "listen_port": server, "users": users() }],
            }))
            .await?;
        let what = back.name();
        for garbage in
            [vec![0x5a; 600], vec![0; 101], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8)]
        {
            let answer = told(server, &garbage, false).await?;
            ensure!(answer == Some(Vec::new()), "{what} says {answer:?} to garbage");
        }
        ensure!(told(server, &[7; 30], true).await? == Some(Vec::new()), "{what}: few bytes");

        for (id, alter_id, served) in [
            (ID, 0, true),
            (ID, 1, true),
            ("somebody", 0, true),
            ("somebody", 1, false),
            ("else", 0, false),
        ] {
            let (port, heard) = wiretap(server).await?;
            let link = plain(
                json!({ "type": "vmess", "uuid": id, "alter_id": alter_id, "security": "aes-128-gcm" }),
            );
            let entry = ports::free();
            let _front = clients(&Subject::under_test(), &[link], &[entry], port).await?;
            let via = Via::from(Socks::v5(Ports::v4(entry)));
            let result = suite::tcp_ping_pong(&via, &echo).await;
            ensure!(result.is_ok() == served, "{what}, {id} {alter_id}: {result:?}");
            let heard = heard.lock().map(|heard| heard.clone()).unwrap_or_default();
            ensure!(heard.len() > 80, "{what}: {} bytes heard", heard.len());
            // The reference guards requests of the legacy protocol neither against replays nor against changes.
            if alter_id == 0 || !back.is_reference() {
                let answer = told(server, &heard, false).await?;
                ensure!(
                    answer == Some(Vec::new()),
                    "{what}, {id} {alter_id}: {answer:?} to a replay"
                );
                let mut changed = heard.clone();
                changed[50] ^= 1;
                let answer = told(server, &changed, true).await?;
                ensure!(
                    answer == Some(Vec::new()),
                    "{what}, {id} {alter_id}: {answer:?} to a change"
                );
            }
            let answer = told(server, &heard[..60], true).await?;
            ensure!(answer == Some(Vec::new()), "{what}, {id} {alter_id}: {answer:?} to a part");
        }
    }
    Ok(())
}

/// A user that goes takes its flows along; the others' live on, through the same inbound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_change_while_it_runs() -> Result<()> {
    let origin = Origins::v4().await?;
    let echo: Target = origin.echo.addr().into();
    let server = ports::free();
    let config = |users: Value| {
        json!({
            "inbounds": [{ "type": "vmess", "listen": "127.0.0.1", "listen_port": server, "users": users }],
        })
    };
    let user = |name: &str, id: &str| json!({ "name": name, "uuid": id });
    let mut back = Subject::under_test()
        .start(&config(json!([user("ann", "a"), user("bob", "b"), user("cleo", "c")])))
        .await?;
    let link = |id: &str, encoding: &str| {
        plain(
            json!({ "type": "vmess", "uuid": id, "security": "auto", "packet_encoding": encoding }),
        )
    };
    let links = [link("a", ""), link("b", ""), link("c", ""), link("d", ""), link("b", "xudp")];
    let ports: [u16; 5] = ports::many();
    let _front = clients(&Subject::under_test(), &links, &ports, server).await?;
    let via = ports.map(|port| Via::from(Socks::v5(Ports::v4(port))));
    let mut flows = Vec::new();
    for via in &via[..3] {
        let mut stream = via.tcp(&echo).await?;
        ensure!(lives(&mut stream).await, "before");
        flows.push(stream);
    }
    let datagrams = via[4].udp(&origin.udp.addr().into()).await?;
    datagrams.send(b"x").await?;
    datagrams.recv().await?;
    ensure!(suite::tcp_ping_pong(&via[3], &echo).await.is_err(), "dan is not there yet");
    // bob goes, cleo has another id, dan comes.
    back.reload(&config(json!([user("dan", "d"), user("ann", "a"), user("cleo", "other")])))?;
    for _ in 0..50 {
        if suite::tcp_ping_pong(&via[3], &echo).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    suite::tcp_ping_pong(&via[3], &echo).await.context("dan")?;
    let alive =
        [lives(&mut flows[0]).await, lives(&mut flows[1]).await, lives(&mut flows[2]).await];
    ensure!(alive == [true, false, false], "ann, bob, cleo: {alive:?}");
    datagrams.send(b"y").await?;
    let answer = timeout(Duration::from_secs(1), datagrams.recv()).await;
    ensure!(!matches!(answer, Ok(Ok(_))), "bob's datagrams are still carried");
    Ok(())
}

async fn lives(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let asked = async {
        stream.write_all(b"?").await?;
        stream.read_exact(&mut byte).await
    };
    matches!(timeout(Duration::from_secs(5), asked).await, Ok(Ok(_)))
}
