//! The transports `http` and `grpc` under Trojan: with the reference and with mihomo, over TLS and without it; streams that
//! share a connection, servers that die, and reloads.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    curl,
    net::{
        Socks, Via,
        origin::Origin,
        suite::{self, Naming, Origins},
    },
    ports,
    subject::Subject,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    mihomo::{base, mihomo},
    stage::Ports,
};
use crate::tls::certs::{Certs, Files};

const PASSWORD: &str = "secret";

const STEP: Duration = Duration::from_secs(20);

/// Transports at a server and at a client that go together.
fn transports() -> Vec<(&'static str, Value, Value)> {
    let same = |name, value: Value| (name, value.clone(), value);
    let hosts = json!(["a.example", "b.example"]);
    vec![
        same("http", json!({ "type": "http" })),
        (
            "http with everything",
            json!({
                "type": "http", "host": hosts, "path": "/a b", "method": "POST", "idle_timeout": "1m",
                "headers": { "X-Server": "s" }
            }),
            json!({
                "type": "http", "host": hosts, "path": "/a b/c?d", "method": "POST", "idle_timeout": "10s",
                "ping_timeout": "3s", "headers": { "X-Client": ["1", "2"] }
            }),
        ),
        same("grpc", json!({ "type": "grpc", "service_name": "TunService" })),
        same("grpc without a name", json!({ "type": "grpc" })),
        same(
            "grpc with everything",
            json!({
                "type": "grpc", "service_name": "a/b c?d", "idle_timeout": "10s", "ping_timeout": "3s",
                "permit_without_stream": true
            }),
        ),
    ]
}

fn inbound(port: u16, transport: &Value, files: Option<&Files>) -> Value {
    let mut inbound = json!({
        "type": "trojan", "tag": format!("trojan{port}"), "listen": "127.0.0.1", "listen_port": port,
        "users": [{ "name": "ann", "password": PASSWORD }], "transport": transport,
    });
    if let Some(files) = files {
        inbound["tls"] = files.server();
        inbound["tls"]["enabled"] = json!(true);
    }
    inbound
}

fn outbound(port: u16, transport: &Value, tls: bool) -> Value {
    let mut outbound = json!({
        "type": "trojan", "tag": format!("out{port}"), "server": "127.0.0.1", "server_port": port,
        "password": PASSWORD, "transport": transport,
    });
    if tls {
        outbound["tls"] = json!({ "enabled": true, "server_name": "localhost", "insecure": true });
    }
    outbound
}

fn mixed(port: u16) -> Value {
    json!({ "type": "mixed", "tag": format!("mixed{port}"), "listen": "127.0.0.1", "listen_port": port })
}

fn via(entry: u16) -> Via {
    Via::from(Socks::v5(Ports::v4(entry)))
}

/// Every transport between two programs, without TLS and with it.
async fn chain(front: &Subject, back: &Subject) -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let links: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|tls| transports().into_iter().map(move |link| (tls, link)))
        .map(|(tls, link)| (tls, link, ports::many::<2>()))
        .collect();
    let inbounds = links
        .iter()
        .map(|(tls, (_, server, _), [port, _])| inbound(*port, server, tls.then_some(&files)));
    let back_config = json!({
        "inbounds": inbounds.collect::<Vec<_>>(), "outbounds": [{ "type": "direct" }],
    });
    let _back = back.start(&back_config).await.context("back")?;
    let entries = links.iter().map(|(.., [_, entry])| mixed(*entry));
    let exits = links.iter().map(|(tls, (_, _, client), [port, _])| outbound(*port, client, *tls));
    let rules = links.iter().map(|(.., [port, entry])| {
        json!({ "inbound": format!("mixed{entry}"), "outbound": format!("out{port}") })
    });
    let front_config = json!({
        "inbounds": entries.collect::<Vec<_>>(),
        "outbounds": exits.collect::<Vec<_>>(),
        "route": { "rules": rules.collect::<Vec<_>>() },
    });
    let _front = front.start(&front_config).await.context("front")?;
    let origins = Origins::v4().await?;
    for (tls, (name, ..), [_, entry]) in &links {
        let via = via(*entry);
        let what = || format!("{} -> {}, {name}, TLS {tls}", front.name(), back.name());
        if front.is_reference() {
            // Its clients do not pass on the end of one direction alone.
            suite::tcp_open(&via, &origins, Naming::Address).await.with_context(what)?;
        } else {
            suite::tcp(&via, &origins, Naming::Address).await.with_context(what)?;
        }
        suite::udp(&via, &origins, Naming::Address).await.with_context(what)?;
    }
    Ok(())
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_grpc_with_mihomo() -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let transport = json!({ "type": "grpc", "service_name": "TunService" });

    let [server, entry] = ports::many();
    let _back = Subject::under_test()
        .start(&json!({ "inbounds": [inbound(server, &transport, Some(&files))] }))
        .await?;
    let mut config = base(entry, false);
    config["proxies"] = json!([{
        "name": "link", "type": "trojan", "server": "127.0.0.1", "port": server, "password": PASSWORD,
        "sni": "localhost", "skip-cert-verify": true, "udp": true, "network": "grpc",
        "grpc-opts": { "grpc-service-name": "TunService" },
    }]);
    config["rules"] = json!(["MATCH,link"]);
    let _front = mihomo(&config, entry).await?;
    run(entry, "mihomo to our grpc").await?;

    let [server, mixed_port, entry] = ports::many();
    let mut config = base(mixed_port, false);
    config["listeners"] = json!([{
        "name": "in", "type": "trojan", "listen": "127.0.0.1", "port": server, "grpc-service-name": "TunService",
        "users": [{ "username": "ann", "password": PASSWORD }],
        "certificate": std::fs::read_to_string(&files.certificate)?,
        "private-key": std::fs::read_to_string(&files.key)?,
    }]);
    config["rules"] = json!(["MATCH,DIRECT"]);
    let _back = mihomo(&config, mixed_port).await?;
    let _front = Subject::under_test()
        .start(&json!({
            "inbounds": [mixed(entry)], "outbounds": [outbound(server, &transport, true)],
        }))
        .await?;
    run(entry, "our grpc to mihomo").await
}

/// What mihomo passes on through gRPC: not the end of one direction.
async fn run(entry: u16, what: &str) -> Result<()> {
    let origins = Origins::v4().await?;
    let via = via(entry);
    for _ in 0..200 {
        if suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.is_ok() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    suite::tcp_open(&via, &origins, Naming::Address).await.with_context(|| what.to_owned())?;
    suite::udp(&via, &origins, Naming::Address).await.with_context(|| what.to_owned())
}

/// A wire that counts connections.
async fn wire(to: u16) -> Result<Origin> {
    Origin::tcp("127.0.0.1:0", move |mut near, _| async move {
        let Ok(mut far) = TcpStream::connect(Ports::v4(to)).await else { return };
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    })
    .await
}

async fn echoed(stream: &mut TcpStream, word: &[u8]) -> Result<()> {
    stream.write_all(word).await?;
    let mut back = vec![0; word.len()];
    timeout(STEP, stream.read_exact(&mut back)).await.context("no answer")??;
    ensure!(back == word, "another answer");
    Ok(())
}

/// With either program as the server: 100 flows through one connection, all alive at a time; the server dies, the next flow
/// finds its successor; the outbound is replaced, its flows go on, and its connection ends with the last of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_share_a_connection() -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    for (transport, back) in [
        (json!({ "type": "http", "path": "/p" }), Subject::under_test()),
        (json!({ "type": "grpc", "service_name": "s" }), Subject::under_test()),
        (json!({ "type": "http", "path": "/p" }), Subject::Reference),
        (json!({ "type": "grpc", "service_name": "s" }), Subject::Reference),
    ] {
        let what = || format!("{transport} to {}", back.name());
        let [server, entry] = ports::many();
        let back_config = json!({ "inbounds": [inbound(server, &transport, Some(&files))] });
        let mut back_process = back.start(&back_config).await.with_context(what)?;
        let wire = wire(server).await?;
        let exit = outbound(wire.addr().port(), &transport, true);
        let front_config = json!({ "inbounds": [mixed(entry)], "outbounds": [exit] });
        let mut front = Subject::under_test().start(&front_config).await?;
        let via = Arc::new(via(entry));
        let target = echo.addr().into();

        let mut flows = Vec::new();
        for n in 0..100 {
            let mut flow = via.tcp(&target).await.with_context(what)?;
            echoed(&mut flow, format!("flow {n}").as_bytes()).await.with_context(what)?;
            flows.push(flow);
        }
        for flow in &mut flows {
            echoed(flow, &[7; 30_000]).await.with_context(what)?;
        }
        ensure!(wire.counters().accepted() == 1, "{}: {:?}", what(), wire.counters());

        // The other outbound of the same tag dials anew; what went through this one goes on.
        let mut changed = front_config.clone();
        changed["outbounds"][0]["connect_timeout"] = json!("7s");
        front.reload(&changed)?;
        sleep(Duration::from_millis(1000)).await;
        let mut new = via.tcp(&target).await.with_context(what)?;
        echoed(&mut new, b"new").await.with_context(what)?;
        for flow in &mut flows {
            echoed(flow, b"old").await.with_context(what)?;
        }
        ensure!(wire.counters().accepted() == 2, "{}: {:?}", what(), wire.counters());
        drop(flows);
        let mut left = wire.counters().active();
        for _ in 0..100 {
            if left == 1 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
            left = wire.counters().active();
        }
        ensure!(left == 1, "{}: {left} connections are left", what());

        back_process.stop().await?;
        let end = timeout(STEP, new.read(&mut [0])).await.with_context(what)?;
        ensure!(!matches!(end, Ok(1..)), "{}: more after the end", what());
        let _back = back.start(&back_config).await.with_context(what)?;
        suite::tcp_ping_pong(&via, &target).await.with_context(what)?;
    }
    Ok(())
}

/// An inbound that is replaced lets its flows go on, and takes no new ones on connections of old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_inbound_sends_its_clients_to_the_next() -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    for transport in [json!({ "type": "http" }), json!({ "type": "grpc", "service_name": "s" })] {
        for front in [Subject::under_test(), Subject::Reference] {
            let what = || format!("{} with {transport}", front.name());
            let [server, entry] = ports::many();
            let config = json!({ "inbounds": [inbound(server, &transport, Some(&files))] });
            let mut back = Subject::under_test().start(&config).await?;
            let wire = wire(server).await?;
            let exit = outbound(wire.addr().port(), &transport, true);
            let _front =
                front.start(&json!({ "inbounds": [mixed(entry)], "outbounds": [exit] })).await?;
            let (via, target) = (via(entry), echo.addr().into());
            let mut old = via.tcp(&target).await?;
            echoed(&mut old, b"one").await.with_context(what)?;
            let mut changed = config.clone();
            changed["inbounds"][0]["tls"]["min_version"] = json!("1.3");
            back.reload(&changed)?;
            sleep(Duration::from_millis(1000)).await;
            echoed(&mut old, b"two").await.with_context(what)?;
            let mut new = via.tcp(&target).await?;
            echoed(&mut new, b"three").await.with_context(what)?;
            echoed(&mut old, b"four").await.with_context(what)?;
            ensure!(wire.counters().accepted() == 2, "{}: {:?}", what(), wire.counters());
        }
    }
    Ok(())
}

/// What strangers are told by curl, of both versions of HTTP, is what the reference tells them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_what_the_reference_shows() -> Result<()> {
    let certs = Certs::new("carried")?;
    let files = certs.issue("server", &["localhost"])?;
    let http = json!({
        "type": "http", "host": ["a.example"], "path": "/p", "method": "PUT", "headers": { "X-S": ["1", "2"] }
    });
    let grpc = json!({ "type": "grpc", "service_name": "svc" });
    let mut seen = Vec::new();
    for subject in [Subject::under_test(), Subject::Reference] {
        let [plain_http, secure_http, plain_grpc, secure_grpc]: [u16; 4] = ports::many();
        let mut odd = inbound(secure_grpc, &grpc, Some(&files));
        // HTTP/2 is offered all the same.
        odd["tls"]["alpn"] = json!(["http/1.1"]);
        let _program = subject
            .start(&json!({ "inbounds": [
                inbound(plain_http, &http, None), inbound(secure_http, &http, Some(&files)),
                inbound(plain_grpc, &grpc, None), odd,
            ] }))
            .await?;
        let a = "Host: a.example";
        let kind = "Content-Type: application/grpc";
        let mut told = Vec::new();
        for (scheme, http, grpc, versions) in [
            ("http", plain_http, plain_grpc, ["--http1.1", "--http2-prior-knowledge"]),
            ("https", secure_http, secure_grpc, ["--http1.1", "--http2"]),
        ] {
            for version in versions {
                for (port, path, args) in [
                    (http, "p", &["-X", "PUT", "-H", "Host: other"][..]),
                    (http, "q", &["-X", "PUT", "-H", a]),
                    (http, "p", &["-X", "GET", "-H", a]),
                    (grpc, "other/Tun", &["-X", "POST", "-H", kind]),
                    (grpc, "svc/Tun", &["-X", "POST"]),
                    (grpc, "svc/Tun", &["-X", "GET", "-H", kind]),
                    (grpc, "", &[]),
                ] {
                    let url = format!("{scheme}://127.0.0.1:{port}/{path}");
                    let all = [args, &[version, "--insecure", "--include", &url]].concat();
                    let said = curl::fetch(&all).await?.body.to_lowercase();
                    let lines = said.lines().filter(|line| !line.starts_with("date:"));
                    let mut said: Vec<&str> = lines.collect();
                    said.sort_unstable();
                    told.push(format!("{version} {scheme} {path} {args:?}: {said:?}"));
                }
            }
        }
        seen.push(told);
    }
    let (ours, theirs) = (&seen[0], &seen[1]);
    for (our, their) in ours.iter().zip(theirs) {
        ensure!(our == their, "we: {our}\nthe reference: {their}");
    }
    Ok(())
}
