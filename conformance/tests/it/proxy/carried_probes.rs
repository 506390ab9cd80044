//! What somebody without the right path, host or protocol sees of an inbound behind `ws` and `httpupgrade`: the same as
//! at the reference, or listed in `deviations.tsv` under the suite `probes`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{golden::lists::Deviations, ports, subject::Subject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::stage::Ports;

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

fn servers() -> Vec<(&'static str, Value)> {
    vec![
        ("ws", json!({ "type": "ws" })),
        ("ws path", json!({ "type": "ws", "path": "/x" })),
        (
            "ws header",
            json!({ "type": "ws", "path": "/x", "max_early_data": 2048, "early_data_header_name": "Sec-WebSocket-Protocol" }),
        ),
        ("ws in path", json!({ "type": "ws", "path": "/x", "max_early_data": 2048 })),
        ("ws odd", json!({ "type": "ws", "path": "/x", "early_data_header_name": "early" })),
        ("hu", json!({ "type": "httpupgrade" })),
        ("hu host", json!({ "type": "httpupgrade", "path": "x", "host": "h.ex" })),
    ]
}

fn requests() -> Vec<(&'static str, String)> {
    let ask = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\n{fields}\r\n");
    let ws = format!("Host: a\r\n{UPGRADE}{KEY}");
    let hu = format!("Host: h.ex\r\n{UPGRADE}");
    let early = "Sec-WebSocket-Protocol: aGVsbG8\r\nEarly: aGVsbG8\r\n";
    let long = format!("A: {}\r\n", "b".repeat(1_100_000));
    vec![
        ("root", ask("GET /", &ws)),
        ("path", ask("GET /x", &ws)),
        ("query", ask("GET /x?q", &ws)),
        ("escaped", ask("GET /%78", &ws)),
        ("url", ask("GET http://a/x", &ws)),
        ("early path", ask("GET /xaGVsbG8", &ws)),
        ("early path bad", ask("GET /x!!", &ws)),
        ("early path padded", ask("GET /xaGVsbG8=", &ws)),
        ("early header bad", ask("GET /x", &format!("{ws}{}", early.replace("aG", "!!")))),
        ("post", ask("POST /x", &format!("{ws}Content-Length: 0\r\n"))),
        ("1.0", ask("GET /x", &ws).replace("HTTP/1.1", "HTTP/1.0")),
        ("2.0", ask("GET /x", &ws).replace("HTTP/1.1", "HTTP/2.0")),
        ("no host", ask("GET /x", &format!("{UPGRADE}{KEY}"))),
        ("empty host", ask("GET /x", &format!("Host: \r\n{UPGRADE}{KEY}"))),
        ("two hosts", ask("GET /x", &format!("Host: a\r\n{ws}"))),
        ("no upgrade", ask("GET /x", &ws.replace("Upgrade: websocket\r\n", ""))),
        ("no connection", ask("GET /x", &ws.replace("Connection: Upgrade\r\n", ""))),
        ("connection list", ask("GET /x", &ws.replace("n: Upgrade", "n: keep-alive, Upgrade"))),
        ("short key", ask("GET /x", &ws.replace("dGhlIHNhbXBsZSBub25jZQ==", "abc"))),
        ("version 12", ask("GET /x", &ws.replace("13", "12"))),
        ("no version", ask("GET /x", &ws.replace("Sec-WebSocket-Version: 13\r\n", ""))),
        ("upgrade root", ask("GET /", &hu)),
        ("upgrade", ask("GET /x", &hu)),
        ("upgrade query", ask("GET /x?y", &hu)),
        ("upgrade list", ask("GET /x", &hu.replace("n: Upgrade", "n: keep-alive, Upgrade"))),
        ("upgrade post", ask("POST /x", &hu)),
        ("upgrade key", ask("GET /x", &format!("{hu}{KEY}"))),
        ("upgrade 1.0", ask("GET /x", &hu).replace("HTTP/1.1", "HTTP/1.0")),
        ("garbage", "\u{16}\u{3}\u{1} garbage\r\n\r\n".to_owned()),
        ("garbage line", "garbage\n".to_owned()),
        ("bad header", ask("GET /x", "Host: a\r\nbad header\r\n")),
        ("bad te", ask("GET /x", "Host: a\r\nTransfer-Encoding: foo\r\n")),
        ("no body", ask("POST /nope", "Host: a\r\nContent-Length: 5\r\n") + "hello"),
        ("close", ask("GET /nope", "Host: a\r\nConnection: close\r\n")),
        ("nope 1.0", ask("GET /nope", "Host: a\r\n").replace("HTTP/1.1", "HTTP/1.0")),
        ("head", ask("HEAD /nope", "Host: a\r\n")),
        ("expect bad", ask("GET /nope", "Host: a\r\nExpect: foo\r\n")),
        ("options", ask("OPTIONS *", &ws)),
        ("connect", ask("CONNECT a:80", &ws)),
        ("preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("lf", ask("GET /x", &ws).replace("\r\n", "\n")),
        ("relative", ask("GET x", &ws)),
        ("space in name", ask("GET /x", "Host: a\r\nA : b\r\n")),
        ("folded", ask("GET /x", &format!("{ws}A: b\r\n c\r\n"))),
        ("twice", ask("GET /nope", "Host: a\r\n") + &ask("GET /x", &ws)),
        ("bad method", ask("G@T /x", "Host: a\r\n")),
        ("long", ask("GET /x", &format!("Host: a\r\n{long}"))),
        ("bad escape", ask("GET /%zz", &ws)),
        ("control", ask("GET /x", "Host: a\r\nA: b\u{1}\r\n")),
    ]
}

/// What the reference does in another way: servers for one request each.
fn odd() -> Vec<(&'static str, Value, &'static str)> {
    let headers = json!({ "X-Server": "1" });
    vec![
        ("ws with headers", json!({ "type": "ws", "headers": headers }), "root"),
        ("hu with headers", json!({ "type": "httpupgrade", "headers": headers }), "upgrade root"),
    ]
}

/// Connections at a time.
static PLACES: Semaphore = Semaphore::const_new(48);

/// Everything is answered: waits long for that, and then until nothing more comes.
async fn answer(port: u16, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(Ports::v4(port)).await?;
    // Who refuses a head need not have read it all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut patience = Duration::from_secs(20);
    let state = loop {
        match timeout(patience, stream.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => patience = Duration::from_secs(1),
            Ok(_) => break "end",
            Err(_) => break "open",
        }
    };
    Ok(format!("{} | {state}", String::from_utf8_lossy(&answer).replace("\r\n", "⏎")))
}

/// What each request is answered with.
async fn seen(subject: &Subject) -> Result<Vec<(String, String)>> {
    let usual = servers().into_iter().map(|(server, transport)| (server, transport, None));
    let odd = odd().into_iter().map(|(server, transport, only)| (server, transport, Some(only)));
    let servers: Vec<_> = usual.chain(odd).map(|server| (server, ports::free())).collect();
    let inbounds = servers.iter().map(|((_, transport, _), port)| {
        json!({
            "type": "trojan", "listen": "127.0.0.1", "listen_port": port,
            "users": [{ "name": "ann", "password": "secret" }], "transport": transport,
        })
    });
    let config = json!({ "inbounds": inbounds.collect::<Vec<_>>() });
    let _program = subject.start(&config).await?;
    let mut running = JoinSet::new();
    for ((server, _, only), port) in servers {
        for (name, request) in requests() {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            running.spawn(async move {
                let _place = PLACES.acquire().await;
                let seen = answer(port, request.as_bytes()).await;
                (format!("{server}: {name}"), seen.map(|seen| masked(&seen)))
            });
        }
    }
    let mut seen = Vec::new();
    while let Some(done) = running.join_next().await {
        let (name, answer) = done?;
        seen.push((name, answer?));
    }
    seen.sort();
    Ok(seen)
}

/// Without dates, and without whether the connection stays open once WebSocket was refused: the reference forgets it, and
/// closes it when its garbage collector comes by.
fn masked(text: &str) -> String {
    let date = |line| if str::starts_with(line, "Date: ") { "Date: D" } else { line };
    let text = text.split('⏎').map(date).collect::<Vec<_>>().join("⏎");
    match text.split_once(" | ") {
        Some((answer, _)) if answer.contains("handshake error: ") => answer.to_owned(),
        _ => text,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_what_the_reference_shows() -> Result<()> {
    let subject = Subject::under_test();
    let (ours, theirs) = (seen(&subject).await?, seen(&Subject::Reference).await?);
    let deviations = Deviations::load()?;
    let mut wrong = Vec::new();
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let listed = deviations.find("probes", name).filter(|_| !subject.is_reference());
        match listed {
            None if ours == theirs => {}
            None => wrong.push(format!("{name}\n  reference {theirs}\n  subject   {ours}")),
            Some(_) if ours == theirs => wrong.push(format!("{name}: no longer deviates")),
            Some(listed) if *ours == listed.what => {}
            Some(listed) => {
                let what = &listed.what;
                wrong
                    .push(format!("{name}: not as listed\n  listed    {what}\n  is        {ours}"));
            }
        }
    }
    for deviation in deviations.of("probes") {
        if !ours.iter().any(|(name, _)| *name == deviation.name) {
            wrong.push(format!("{}: listed as deviation, but no such request", deviation.name));
        }
    }
    if !wrong.is_empty() {
        bail!("strangers see something else:\n{}", wrong.join("\n"));
    }
    Ok(())
}

/// Heads that never end, frames that are none, and clients that wait: each connection ends, and the next one is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_are_cut() -> Result<()> {
    let [ws, hu] = ports::many();
    let inbound = |port: u16, kind: &str| {
        json!({
            "type": "trojan", "listen": "127.0.0.1", "listen_port": port, "transport": { "type": kind },
            "users": [{ "name": "ann", "password": "secret" }],
        })
    };
    let config = json!({ "inbounds": [inbound(ws, "ws"), inbound(hu, "httpupgrade")] });
    let mut program = Subject::under_test().start(&config).await?;
    let greeting = format!("GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}{KEY}\r\n").into_bytes();
    let with = |frames: &[u8]| [&greeting[..], frames].concat();
    let mut running = JoinSet::new();
    for (name, port, bytes, patience) in [
        ("half a head", ws, greeting[..40].to_vec(), 15),
        ("half a head", hu, greeting[..40].to_vec(), 15),
        ("nothing", ws, Vec::new(), 15),
        ("no protocol behind it", ws, greeting.clone(), 15),
        ("half a frame", ws, with(&[0x82, 0xfe, 0x10]), 15),
        ("reserved bits", ws, with(&[0xf2, 0x80, 0, 0, 0, 0]), 0),
        ("a length of 2^63", ws, with(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), 0),
        ("a huge ping", ws, with(&[0x89, 0xfe, 0xff, 0xff, 1, 2, 3, 4]), 0),
        ("not trojan", ws, with(&[&[0x82, 0x05][..], b"hello"].concat()), 0),
        ("closed at once", ws, with(&[0x88, 0x80, 1, 2, 3, 4]), 0),
    ] {
        running.spawn(async move {
            let mut stream = TcpStream::connect(Ports::v4(port)).await?;
            let start = Instant::now();
            stream.write_all(&bytes).await?;
            let limit = Duration::from_secs(patience + 8);
            let mut answer = Vec::new();
            let end = timeout(limit, stream.read_to_end(&mut answer)).await;
            let _ = end.with_context(|| format!("{name}: kept for {limit:?}"))?;
            let after = start.elapsed();
            ensure!(
                after + Duration::from_secs(1) > Duration::from_secs(patience),
                "{name}: cut after {after:?}"
            );
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    ensure!(program.try_exit().is_none(), "the program has ended");
    let answer = answer(ws, &greeting).await?;
    ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    Ok(())
}
