//! Bytes from the network are hostile: garbage, truncation and slowness hurt nobody else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use crosspoint_conformance::{
    net::{Socks, Via, http::HttpProxy, origin::Origin, pattern::Pattern},
    ports,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::{
    load::{Load, Way},
    stage::{Daemon, until},
};

/// First bytes that promise a protocol and break it.
fn garbage() -> Vec<Vec<u8>> {
    let mut cases: Vec<Vec<u8>> = vec![
        vec![],
        vec![5],
        vec![5, 0],
        vec![5, 255],
        vec![5, 1, 2, 1, 255],
        vec![5, 1, 0, 5, 1, 0, 9, 1, 2, 3],
        vec![5, 1, 0, 5, 9, 0, 1, 127, 0, 0, 1, 0, 1],
        vec![5, 1, 0, 5, 1, 0, 3, 0, 0, 80],
        vec![4, 1],
        vec![4, 9, 0, 80, 127, 0, 0, 1, 0],
        vec![0; 64],
        vec![0xff; 4096],
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"CONNECT\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\n\r\n".to_vec(),
        b"CONNECT :0 HTTP/1.1\r\n\r\n".to_vec(),
        b"POST http://127.0.0.1:1/ HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"
            .to_vec(),
        b"POST http://127.0.0.1:1/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
    ];
    // Requests that never end.
    let mut endless = vec![4, 1, 0, 80, 127, 0, 0, 1];
    endless.extend(std::iter::repeat_n(b'u', 70_000));
    cases.push(endless);
    let mut header = b"GET http://127.0.0.1:1/ HTTP/1.1\r\n".to_vec();
    while header.len() < 300_000 {
        header.extend_from_slice(
            b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        );
    }
    cases.push(header);
    for seed in 0..64 {
        let mut bytes = Pattern::new(seed).take(16 + seed as usize * 7);
        bytes[0] = [4, 5, b'G', b'C'][seed as usize % 4];
        cases.push(bytes);
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_disturbs_nobody() -> Result<()> {
    let [mixed, socks, http, direct] = ports::many();
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let inbound = |kind: &str, port: u16| json!({ "type": kind, "tag": kind, "listen": "127.0.0.1", "listen_port": port });
    let mut fixed = inbound("direct", direct);
    fixed["override_address"] = json!("127.0.0.1");
    fixed["override_port"] = json!(echo.addr().port());
    let daemon = Daemon::start(&json!({
        "log": { "level": "error" },
        "inbounds": [inbound("mixed", mixed), inbound("socks", socks), inbound("http", http), fixed],
        "route": { "rules": [{ "action": "sniff" }] }
    }))
    .await?;
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ways = [
        Way { name: "socks", via: Via::Socks(Socks::v5(local(mixed))), echo: echo.addr().into() },
        Way { name: "http", via: Via::Http(HttpProxy::new(local(http))), echo: echo.addr().into() },
    ];
    let rss = daemon.running.rss();
    let load = Load::start(&ways, 8, &ways, &[local(mixed)]).await?;
    for case in garbage() {
        for port in [mixed, socks, http, direct] {
            let mut stream = TcpStream::connect(local(port)).await?;
            // The daemon may hang up in the middle.
            let _ = stream.write_all(&case).await;
            let _ = stream.shutdown().await;
            let mut sink = Vec::new();
            let mut stream = stream.take(1 << 20);
            let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut sink));
            ensure!(end.await.is_ok(), "port {port} keeps {case:?} for 20 s");
        }
        // Datagrams to an association that they do not belong to.
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        let _ = udp.send_to(&case[..case.len().min(60_000)], local(direct)).await;
    }
    load.stop().await?.flawless()?;
    let status = daemon.status().await?;
    for component in &status.components {
        ensure!(component.restarts == 0 && component.epoch == 1, "{component:?}");
    }
    let log = daemon.running.log();
    ensure!(!log.contains("panicked"), "{}", daemon.running.log_tail());
    let grown = daemon.running.rss().saturating_sub(rss);
    ensure!(grown < 40 << 20, "memory grew by {grown} bytes");
    Ok(())
}

/// Clients that say half a request and then nothing are hung up on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_timed_out() -> Result<()> {
    let [mixed] = ports::many();
    let daemon = Daemon::start(&json!({
        "log": { "level": "error" },
        "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": mixed }]
    }))
    .await?;
    let fds = daemon.running.fds();
    let mut held = Vec::new();
    for start in [
        &b""[..],
        b"\x05",
        b"\x05\x01\x00\x05\x01",
        b"\x04\x01",
        b"CONNECT exa",
        b"GET http://a/ HTTP/1.1\r\nX",
    ] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", mixed)).await?;
            stream.write_all(start).await?;
            held.push(stream);
        }
    }
    until("all of them are hung up on", Duration::from_secs(40), async || {
        daemon.running.fds() <= fds
    })
    .await?;
    Ok(())
}
