//! Who is not served, and why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Origins},
    },
    ports,
    subject::Subject,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{ID, VISION, until};
use crate::proxy::stage::Ports;

const UUID: [u8; 16] = [
    0xb8, 0x31, 0x38, 0x1d, 0x63, 0x24, 0x4d, 0x53, 0xad, 0x4f, 0x8c, 0xda, 0x48, 0xb3, 0x08, 0x11,
];

/// A request for 127.0.0.1.
fn request(id: [u8; 16], flow: &str, command: u8, port: u16) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(id);
    if flow.is_empty() {
        out.push(0);
    } else {
        out.extend([flow.len() as u8 + 2, 10, flow.len() as u8]);
        out.extend(flow.as_bytes());
    }
    out.push(command);
    out.extend(port.to_be_bytes());
    out.extend([1, 127, 0, 0, 1]);
    out
}

/// Sends bytes and ends the direction if so wanted; what comes back until the end, nothing if none comes.
async fn told(port: u16, bytes: &[u8], end: bool) -> Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(Ports::v4(port)).await?;
    stream.write_all(bytes).await?;
    if end {
        stream.shutdown().await?;
    }
    let mut answer = Vec::new();
    match timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await {
        Err(_) => Ok(None),
        Ok(_) => Ok(Some(answer)),
    }
}

/// Garbage, a wrong id, a wrong flow, a cut off request: the connection ends without a byte, with us as with the reference,
/// which say the same about it; and the next client is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers() -> Result<()> {
    let origin = Origins::v4().await?;
    let echo = origin.echo.addr().port();
    let good = request(UUID, "", 1, echo);
    let mut unknown = good.clone();
    unknown[8] ^= 1;
    for back in [Subject::under_test(), Subject::Reference] {
        let [plain, vision] = ports::many();
        let inbound = |port: u16, flow: &str| {
            json!({
                "type": "vless", "listen": "127.0.0.1", "listen_port": port,
                "users": [{ "name": "ann", "uuid": ID, "flow": flow }],
            })
        };
        let mut back_runs = back
            .start(&json!({ "log": { "level": "debug" }, "inbounds": [inbound(plain, ""), inbound(vision, VISION)] }))
            .await?;
        let name = back.name();
        for (port, bytes, said) in [
            (plain, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8), "unknown version: 71"),
            (plain, vec![0x5a; 600], "unknown version: 90"),
            (plain, unknown.clone(), "unknown UUID: b831381d-6324-4d52-ad4f-8cda48b30811"),
            (plain, request(UUID, "", 9, echo), "unknown command: 9"),
            (plain, request(UUID, VISION, 1, echo), "flow mismatch: expected none, but got"),
            (
                vision,
                request(UUID, "", 1, echo),
                &format!("flow mismatch: expected {VISION}, but got"),
            ),
            (
                vision,
                request(UUID, VISION, 2, echo),
                &format!("{VISION} flow does not support UDP"),
            ),
            // There is no TLS that could be left.
            (vision, request(UUID, VISION, 1, echo), "not a valid supported TLS connection"),
        ] {
            let answer = told(port, &bytes, false).await?;
            ensure!(answer == Some(Vec::new()), "{name}, {said}: {answer:?}");
            back_runs
                .wait_log(|log| log.contains(said), Duration::from_secs(5))
                .await
                .with_context(|| format!("{name}: {said}"))?;
        }
        for cut in [1, 17, 18, 19, 22, good.len() - 1] {
            let answer = told(plain, &good[..cut], true).await?;
            ensure!(answer == Some(Vec::new()), "{name}, {cut} bytes: {answer:?}");
        }
        // The right one is answered with the first bytes.
        let mut stream = TcpStream::connect(Ports::v4(plain)).await?;
        stream.write_all(&[&good[..], b"hello"].concat()).await?;
        let mut answer = [0; 7];
        timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await??;
        ensure!(&answer == b"\0\0hello", "{name}: {answer:?}");
    }
    Ok(())
}

/// What a client cannot do says so when it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients() -> Result<()> {
    let origin = Origins::v4().await?;
    let [server, no_tls, one_peer] = ports::many();
    let _back = Subject::under_test()
        .start(&json!({
            "inbounds": [{
                "type": "vless", "listen": "127.0.0.1", "listen_port": server,
                "users": [{ "uuid": ID }], "tls": { "enabled": true, "insecure": true },
            }],
        }))
        .await?;
    let outbound = |tag: &str, flow: &str, tls: bool, id: &str| {
        json!({
            "type": "vless", "tag": tag, "server": "127.0.0.1", "server_port": server, "uuid": id, "flow": flow,
            "tls": { "enabled": tls, "insecure": true, "server_name": "localhost" }, "packet_encoding": "",
        })
    };
    let mut front = Subject::under_test()
        .start(&json!({
            "inbounds": [
                { "type": "mixed", "tag": "a", "listen": "127.0.0.1", "listen_port": no_tls },
                { "type": "mixed", "tag": "b", "listen": "127.0.0.1", "listen_port": one_peer },
            ],
            "outbounds": [outbound("no TLS", VISION, false, ID), outbound("wrong id", "", true, "x")],
            "route": { "rules": [{ "inbound": "b", "outbound": "wrong id" }] },
        }))
        .await?;
    let echo = origin.echo.addr().into();
    for (port, said) in [(no_tls, Some("not a valid supported TLS connection")), (one_peer, None)] {
        let via = Via::from(Socks::v5(Ports::v4(port)));
        ensure!(suite::tcp_ping_pong(&via, &echo).await.is_err(), "{port} is served");
        if let Some(said) = said {
            front.wait_log(|log| log.contains(said), Duration::from_secs(5)).await?;
        }
    }
    until("nothing was sent to the origin", async || Ok(origin.echo.counters().accepted() == 0))
        .await
}
