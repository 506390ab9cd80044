//! sing-mux and UDP over TCP under Shadowsocks, Trojan and SOCKS, with the reference and mihomo on the other side, both ways;
//! many streams at once, one that nobody reads, a session that is cut, a reload, strangers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Naming, Origins},
        within,
    },
    ports,
    process::Running,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{
    mihomo::{base, mihomo},
    stage::Ports,
};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const METHOD: &str = "2022-blake3-aes-128-gcm";
const PROTOCOLS: [&str; 3] = ["smux", "yamux", "h2mux"];
const STEP: Duration = Duration::from_secs(40);

/// The method for a client in Go (the reference, and mihomo, which has the same code) whose server answers a session at once.
/// With 2022 it notes the salt of its request only after it has sent it, and ends a session whose answer is read before
/// that (sing-shadowsocks2, shadowaead_2022/method.go, writeRequest). A server of yamux answers the first frame; on a busy
/// machine it is fast enough now and then, be it ours or the reference's.
fn method_in_go(protocol: &str) -> &'static str {
    if protocol == "yamux" { "aes-128-gcm" } else { METHOD }
}

/// An inbound and an outbound that go together.
struct Link {
    name: String,
    inbound: Value,
    outbound: Value,
    /// Whether the end of one direction leaves the other one open, for a client of ours and for one of the reference.
    half: [bool; 2],
    /// Whether streams go through it as something of their own.
    streams: bool,
    /// Whether the reference's server resolves names of datagrams.
    names: bool,
}

fn multiplexed(front: &Subject) -> Vec<Link> {
    let mut links = Vec::new();
    for protocol in PROTOCOLS {
        let method = if front.is_reference() { method_in_go(protocol) } else { METHOD };
        for padding in [false, true] {
            let server = json!({ "enabled": true, "padding": padding });
            let client = json!({
                "enabled": true, "protocol": protocol, "padding": padding, "max_connections": 2, "min_streams": 4
            });
            // smux knows no half-closed streams, and the reference ends those of HTTP/2 in both directions.
            let half = [protocol != "smux", protocol == "yamux"];
            links.push(Link {
                name: format!("shadowsocks, {protocol}, padding {padding}"),
                inbound: json!({ "type": "shadowsocks", "method": method, "password": KEY, "multiplex": server }),
                outbound: json!({ "type": "shadowsocks", "method": method, "password": KEY, "multiplex": client }),
                half,
                streams: true,
                names: true,
            });
            links.push(Link {
                name: format!("trojan, {protocol}, padding {padding}"),
                inbound: json!({ "type": "trojan", "users": [{ "name": "a", "password": "b" }], "multiplex": server }),
                outbound: json!({ "type": "trojan", "password": "b", "multiplex": client }),
                half,
                streams: true,
                names: true,
            });
        }
    }
    links
}

fn over_tcp() -> Vec<Link> {
    let mut links = Vec::new();
    for version in [1, 2] {
        let uot = json!({ "enabled": true, "version": version });
        for (kind, inbound) in
            [("shadowsocks", "shadowsocks"), ("socks", "socks"), ("socks", "mixed")]
        {
            let mut server = json!({ "type": inbound });
            let mut client = json!({ "type": kind, "udp_over_tcp": uot });
            if kind == "shadowsocks" {
                for side in [&mut server, &mut client] {
                    side["method"] = json!("aes-128-gcm");
                    side["password"] = json!("x");
                }
                // Datagrams have no other way.
                server["network"] = json!("tcp");
            }
            links.push(Link {
                name: format!("{inbound}, UDP over TCP {version}"),
                inbound: server,
                outbound: client,
                half: [true, false],
                streams: false,
                // Not those of version 1.
                names: version == 2,
            });
        }
    }
    links
}

/// Two programs and the links between them.
struct Chain {
    front: Running,
    back: Running,
    entries: Vec<u16>,
}

async fn chain(front: &Subject, back: &Subject, links: &[Link]) -> Result<Chain> {
    let ports: Vec<[u16; 2]> = links.iter().map(|_| ports::many()).collect();
    let inbounds = links.iter().zip(&ports).map(|(link, [_, port])| {
        let mut inbound = link.inbound.clone();
        inbound["listen"] = json!("127.0.0.1");
        inbound["listen_port"] = json!(port);
        inbound
    });
    let back_config =
        json!({ "inbounds": inbounds.collect::<Vec<_>>(), "outbounds": [{ "type": "direct" }] });
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
    Ok(Chain {
        back: back.start(&back_config).await.context("back")?,
        front: front.start(&front_config).await.context("front")?,
        entries: ports.iter().map(|[port, _]| *port).collect(),
    })
}

fn via(port: u16) -> Via {
    Via::from(Socks::v5(Ports::v4(port)))
}

/// Carries 200 streams at once, all of which stay open until each has been served.
async fn crowd(via: &Via, origins: &Origins) -> Result<()> {
    let mut streams = JoinSet::new();
    for n in 0..200usize {
        let (via, echo) = (via.clone(), origins.echo.addr().into());
        streams.spawn(async move {
            let mut stream = via.tcp(&echo).await?;
            let sent = vec![n as u8; 10_000 + n * 50];
            let mut got = vec![0; sent.len()];
            let (mut reader, mut writer) = stream.split();
            tokio::try_join!(writer.write_all(&sent), reader.read_exact(&mut got))?;
            ensure!(got == sent, "stream {n} differs");
            sleep(Duration::from_millis(300)).await;
            stream.write_all(b"x").await?;
            ensure!(stream.read_u8().await? == b'x');
            Ok(stream)
        });
    }
    let mut open = Vec::new();
    within("200 streams", STEP, async {
        while let Some(stream) = streams.join_next().await {
            open.push(stream??);
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// While one stream carries what nobody reads, others are served.
async fn stalled(via: &Via, origins: &Origins) -> Result<()> {
    let mut slow = via.tcp(&origins.echo.addr().into()).await?;
    let (_reader, mut writer) = slow.split();
    let _ =
        tokio::time::timeout(Duration::from_millis(500), writer.write_all(&vec![1; 3 << 20])).await;
    for _ in 0..4 {
        within(
            "beside a stalled stream",
            STEP,
            suite::tcp_ping_pong(via, &origins.echo.addr().into()),
        )
        .await?;
    }
    Ok(())
}

async fn prove(front: &Subject, back: &Subject, links: &[Link]) -> Result<()> {
    let chain = chain(front, back, links).await?;
    let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
    for (link, port) in links.iter().zip(&chain.entries) {
        let via = via(*port);
        let what = || format!("{} -> {}, {}", front.name(), back.name(), link.name);
        let both_ours = !front.is_reference() && !back.is_reference();
        let half = both_ours || link.half[usize::from(front.is_reference())];
        for (origins, naming) in
            [(&v4, Naming::Address), (&v4, Naming::Localhost), (&v6, Naming::Address)]
        {
            let tcp = async {
                if half {
                    suite::tcp(&via, origins, naming).await
                } else {
                    suite::tcp_open(&via, origins, naming).await
                }
            };
            tcp.await.with_context(what)?;
            if link.names || naming == Naming::Address || !back.is_reference() {
                suite::udp(&via, origins, naming).await.with_context(what)?;
            }
        }
        if link.streams {
            crowd(&via, &v4).await.with_context(what)?;
            stalled(&via, &v4).await.with_context(what)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_the_reference() -> Result<()> {
    let front = Subject::under_test();
    prove(&front, &Subject::Reference, &multiplexed(&front)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_reference() -> Result<()> {
    let front = Subject::Reference;
    prove(&front, &Subject::under_test(), &multiplexed(&front)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_ours() -> Result<()> {
    let front = Subject::under_test();
    prove(&front, &front, &multiplexed(&front)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_over_tcp_with_the_reference() -> Result<()> {
    prove(&Subject::under_test(), &Subject::Reference, &over_tcp()).await?;
    prove(&Subject::Reference, &Subject::under_test(), &over_tcp()).await
}

/// TCP without half-close, and UDP. mihomo's server does not pass the end of a target on to a client of h2mux, be it ours or
/// the reference's: then nothing waits for it.
async fn through_mihomo(port: u16, ends: bool, what: &str) -> Result<()> {
    let origins = Origins::v4().await?;
    let via = via(port);
    // mihomo listens before it has loaded its rules, and hangs up on whoever comes in between.
    for _ in 0..200 {
        if suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.is_ok() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let what = || what.to_owned();
    if ends {
        suite::tcp_open(&via, &origins, Naming::Address).await.with_context(what)?;
    } else {
        let echo = origins.echo.addr().into();
        suite::tcp_bulk_open(&via, &echo, 100 * 64 * 1024).await.with_context(what)?;
    }
    suite::udp(&via, &origins, Naming::Address).await.with_context(what)?;
    crowd(&via, &origins).await.with_context(what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_mihomo() -> Result<()> {
    for protocol in PROTOCOLS {
        let method = method_in_go(protocol);
        for padding in [false, true] {
            let [server, entry] = ports::many();
            let _back = Subject::under_test()
                .start(&json!({
                    "inbounds": [{
                        "type": "shadowsocks", "listen": "127.0.0.1", "listen_port": server, "method": method,
                        "password": KEY, "multiplex": { "enabled": true, "padding": padding }
                    }],
                }))
                .await?;
            let mut config = base(entry, false);
            config["proxies"] = json!([{
                "name": "link", "type": "ss", "server": "127.0.0.1", "port": server, "cipher": method,
                "password": KEY, "udp": true, "smux": {
                    "enabled": true, "protocol": protocol, "padding": padding, "max-connections": 2, "min-streams": 4
                }
            }]);
            config["rules"] = json!(["MATCH,link"]);
            let _peer = mihomo(&config, entry).await?;
            through_mihomo(entry, true, &format!("mihomo to ours, {protocol}, padding {padding}"))
                .await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_mihomo() -> Result<()> {
    for protocol in PROTOCOLS {
        for padding in [false, true] {
            let [server, entry, mixed] = ports::many();
            let mut config = base(mixed, false);
            config["listeners"] = json!([{
                "name": "in", "type": "shadowsocks", "listen": "127.0.0.1", "port": server, "cipher": METHOD,
                "password": KEY, "udp": true, "mux-option": { "padding": padding }
            }]);
            config["rules"] = json!(["MATCH,DIRECT"]);
            let _peer = mihomo(&config, mixed).await?;
            let _front = Subject::under_test()
                .start(&json!({
                    "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                    "outbounds": [{
                        "type": "shadowsocks", "server": "127.0.0.1", "server_port": server, "method": METHOD,
                        "password": KEY, "multiplex": {
                            "enabled": true, "protocol": protocol, "padding": padding, "max_streams": 50
                        }
                    }],
                }))
                .await?;
            through_mihomo(
                entry,
                protocol != "h2mux",
                &format!("ours to mihomo, {protocol}, padding {padding}"),
            )
            .await?;
        }
    }
    Ok(())
}

/// A server that wants padding refuses who has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padding_is_required_where_it_is_configured() -> Result<()> {
    let mut links = multiplexed(&Subject::under_test());
    links.retain(|link| link.name.contains("shadowsocks") && link.name.contains("false"));
    for link in &mut links {
        link.inbound["multiplex"]["padding"] = json!(true);
    }
    let chain = chain(&Subject::under_test(), &Subject::under_test(), &links).await?;
    let origins = Origins::v4().await?;
    for (link, port) in links.iter().zip(&chain.entries) {
        let served = suite::tcp_ping_pong(&via(*port), &origins.echo.addr().into()).await;
        ensure!(served.is_err(), "{}: served without padding", link.name);
    }
    Ok(())
}

/// Passes connections on, until it is dropped.
async fn relay(to: u16) -> Result<(u16, tokio::task::AbortHandle)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        let mut pairs = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            pairs.spawn(async move {
                let mut far = TcpStream::connect(Ports::v4(to)).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    Ok((port, task.abort_handle()))
}

/// Puts a configuration in force, and waits for it.
fn reload(running: &Running, config: &Value) -> Result<()> {
    write_config(running.dir(), config)?;
    running.ctl(&["reload"]).map(drop)
}

/// A connection under a session breaks: its streams end at once, and the next ones go through another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_cut_is_replaced() -> Result<()> {
    let origins = Origins::v4().await?;
    for protocol in PROTOCOLS {
        let [server, entry] = ports::many();
        let _back = Subject::under_test()
            .start(&json!({
                "inbounds": [{
                    "type": "shadowsocks", "listen": "127.0.0.1", "listen_port": server, "method": METHOD,
                    "password": KEY, "multiplex": { "enabled": true }
                }],
            }))
            .await?;
        let (middle, cut) = relay(server).await?;
        let front_config = |port: u16| {
            json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": entry }],
                "outbounds": [{
                    "type": "shadowsocks", "tag": "out", "server": "127.0.0.1", "server_port": port, "method": METHOD,
                    "password": KEY, "multiplex": { "enabled": true, "protocol": protocol, "max_connections": 1 }
                }],
            })
        };
        let front = Subject::under_test().start(&front_config(middle)).await?;
        let via = via(entry);
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = via.tcp(&origins.echo.addr().into()).await?;
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut [0; 5]).await?;
            streams.push(stream);
        }
        cut.abort();
        for mut stream in streams.drain(..) {
            let end = within("the end of a stream", STEP, async {
                Ok::<_, anyhow::Error>(stream.read(&mut [0; 9]).await)
            });
            ensure!(!matches!(end.await?, Ok(1..)), "{protocol}: a stream outlives its session");
        }
        // Another way, by a reload: streams on the session before live on, and an unused one goes.
        reload(&front, &front_config(server))?;
        let mut old = via.tcp(&origins.echo.addr().into()).await?;
        old.write_all(b"old").await?;
        old.read_exact(&mut [0; 3]).await?;
        let (other, _other) = relay(server).await?;
        reload(&front, &front_config(other))?;
        suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.context(protocol)?;
        old.write_all(b"old").await?;
        within("a stream after a reload", STEP, old.read_exact(&mut [0; 3]))
            .await
            .context(protocol)?;
        drop(old);
    }
    Ok(())
}

/// Descriptors come back when sessions end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_leave_nothing_behind() -> Result<()> {
    let links = multiplexed(&Subject::under_test());
    let chain = chain(&Subject::under_test(), &Subject::under_test(), &links).await?;
    let origins = Origins::v4().await?;
    let used = async |entries: &[u16]| -> Result<()> {
        for port in entries {
            suite::tcp_ping_pong(&via(*port), &origins.echo.addr().into()).await?;
        }
        Ok(())
    };
    used(&chain.entries).await?;
    sleep(Duration::from_secs(1)).await;
    let before = [chain.front.fds(), chain.back.fds()];
    for round in 0..4 {
        let config = std::fs::read_to_string(chain.front.dir().join("config.json"))?;
        let mut config: Value = serde_json::from_str(&config)?;
        for outbound in config["outbounds"].as_array_mut().context("outbounds")? {
            // Another instance of each.
            outbound["multiplex"]["min_streams"] = json!(5 + round);
        }
        reload(&chain.front, &config)?;
        used(&chain.entries).await?;
    }
    sleep(Duration::from_secs(2)).await;
    let after = [chain.front.fds(), chain.back.fds()];
    ensure!(
        after[0] <= before[0] + 6 && after[1] <= before[1] + 6,
        "{before:?} {after:?} descriptors"
    );
    Ok(())
}

/// Without the kernel's module a server says why, and a client fails with that, as the reference does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brutal_without_its_module_fails_as_in_the_reference() -> Result<()> {
    if std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?
        .contains("brutal")
    {
        return Ok(());
    }
    let origins = Origins::v4().await?;
    let brutal = json!({ "enabled": true, "up_mbps": 10, "down_mbps": 10 });
    let mut links = multiplexed(&Subject::Reference);
    links.retain(|link| link.name.contains("shadowsocks") && link.name.contains("false"));
    for link in &mut links {
        link.inbound["multiplex"]["brutal"] = brutal.clone();
        link.outbound["multiplex"]["brutal"] = brutal.clone();
        for limit in ["max_connections", "min_streams"] {
            link.outbound["multiplex"].as_object_mut().context("multiplex")?.remove(limit);
        }
    }
    for (front, back) in [
        (Subject::under_test(), Subject::Reference),
        (Subject::Reference, Subject::under_test()),
        (Subject::under_test(), Subject::under_test()),
    ] {
        let chain = chain(&front, &back, &links).await?;
        for (link, port) in links.iter().zip(&chain.entries) {
            let served = suite::tcp_ping_pong(&via(*port), &origins.echo.addr().into()).await;
            ensure!(served.is_err(), "{}: served", link.name);
        }
        let log = chain.front.log();
        for word in ["brutal exchange", "remote error", "tcp-brutal kernel module"] {
            ensure!(log.contains(word), "{} does not say {word:?}: {log}", front.name());
        }
    }
    Ok(())
}

/// Who speaks no session inside of one is cut off, and the next client is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_in_a_session_are_not_served() -> Result<()> {
    let origins = Origins::v4().await?;
    let server = ports::free();
    let back = Subject::under_test()
        .start(&json!({
            "inbounds": [{
                "type": "trojan", "listen": "127.0.0.1", "listen_port": server,
                "users": [{ "name": "a", "password": "b" }], "multiplex": { "enabled": true }
            }]
        }))
        .await?;
    // A request of Trojan for the destination of sessions.
    let mut request = b"c681e18b81edaf2b66dd22376734dba5992e362bc3f91ab225854c17\r\n\x01\x03\x14sp.mux.sing-box.arpa\x01\xbc\r\n".to_vec();
    for head in [&[9, 9][..], &[0, 0], &[0, 1], &[0, 2], &[1, 0, 1, 0, 5, 0, 0, 0, 0, 0]] {
        let mut stream = TcpStream::connect(Ports::v4(server)).await?;
        stream.write_all(&request).await?;
        stream.write_all(head).await?;
        let _ = stream.write_all(&[0x5a; 4000]).await;
        let mut buffer = [0; 4096];
        let end = within("the end of a stranger", STEP, async {
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return Ok::<_, anyhow::Error>(()),
                    Ok(_) => {}
                }
            }
        });
        end.await.with_context(|| format!("{head:?}\n{}", back.log_tail()))?;
    }
    // An ordinary request is still served.
    let echo = origins.echo.addr();
    request.truncate(58 + 1);
    request.extend([1, 127, 0, 0, 1]);
    request.extend(echo.port().to_be_bytes());
    request.extend(b"\r\nhello");
    let mut stream = TcpStream::connect(Ports::v4(server)).await?;
    stream.write_all(&request).await?;
    let mut bytes = [0; 5];
    within("an echo", STEP, stream.read_exact(&mut bytes)).await?;
    ensure!(&bytes == b"hello");
    Ok(())
}
