//! What goes over the wire: a ClientHello in segments and records, read by a listener that is no TLS server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::{Socks, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Helper, inbound, outbound};

const NAME: &str = "www.first.second.test";

/// Everything that arrives on one connection, read by read, until it is quiet.
async fn reads(listener: &TcpListener) -> Result<Vec<Vec<u8>>> {
    let (mut stream, _) = listener.accept().await?;
    let mut reads = Vec::new();
    loop {
        let mut buffer = vec![0; 8192];
        let next = tokio::time::timeout(Duration::from_millis(700), stream.read(&mut buffer)).await;
        let Ok(Ok(n @ 1..)) = next else { return Ok(reads) };
        buffer.truncate(n);
        reads.push(buffer);
    }
}

/// The payloads of the handshake records in a stream.
fn records(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while let [0x16, 3, _, high, low, rest @ ..] = stream {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        out.push(payload);
        stream = rest;
    }
    out
}

fn shows(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Segments and records of which the hello came, and whether one of the segments, or one of the records, shows
/// the name.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    segments: usize,
    records: usize,
    in_segment: bool,
    in_record: bool,
}

fn seen(reads: &[Vec<u8>]) -> Seen {
    let whole = reads.concat();
    let records = records(&whole);
    Seen {
        segments: reads.len(),
        records: records.len(),
        in_segment: reads.iter().any(|read| shows(read, NAME)),
        in_record: records.iter().any(|record| shows(record, NAME)),
    }
}

#[tokio::test]
async fn our_own_handshakes_are_split() -> Result<()> {
    for (options, wanted) in [
        (json!({}), Seen { segments: 1, records: 1, in_segment: true, in_record: true }),
        (
            json!({ "fragment": true }),
            Seen { segments: 4, records: 1, in_segment: false, in_record: true },
        ),
        (
            json!({ "record_fragment": true }),
            Seen { segments: 1, records: 4, in_segment: false, in_record: false },
        ),
        (
            json!({ "fragment": true, "record_fragment": true }),
            Seen { segments: 4, records: 4, in_segment: false, in_record: false },
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = ports::free();
        let mut tls =
            json!({ "server_name": NAME, "insecure": true, "fragment_fallback_delay": "60ms" });
        for (key, option) in options.as_object().into_iter().flatten() {
            tls[key] = option.clone();
        }
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [inbound("mixed", near, Value::Null)],
                "outbounds": [outbound(listener.local_addr()?.port(), tls)],
            }))
            .await?;
        let client = tokio::spawn(async move {
            let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
            let _ = via.tcp(&"192.0.2.1:80".parse::<std::net::SocketAddr>().map(Into::into)?).await;
            anyhow::Ok(())
        });
        let reads = reads(&listener).await?;
        client.abort();
        ensure!(seen(&reads) == wanted, "{options}: {:?}", seen(&reads));
    }
    Ok(())
}

/// A hello of OpenSSL for [`NAME`].
async fn hello() -> Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let client = std::process::Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", NAME])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("the program `openssl` is missing")?;
    let _client = Helper(client);
    let hello = reads(&listener).await?.concat();
    Ok(hello)
}

async fn front(near: u16, rule: Value) -> Result<Running> {
    let mut rule = rule;
    rule["inbound"] = json!("mixed");
    rule["outbound"] = json!("direct");
    let config = json!({
        "inbounds": [inbound("mixed", near, Value::Null)],
        "outbounds": [{ "type": "direct", "tag": "direct" }],
        "route": { "rules": [rule] },
    });
    Subject::under_test().start(&config).await
}

#[tokio::test]
async fn handshakes_of_clients_are_split_by_rules() -> Result<()> {
    let hello = hello().await?;
    ensure!(records(&hello).len() == 1 && shows(&hello, NAME));
    for (rule, wanted) in [
        (json!({}), Seen { segments: 1, records: 1, in_segment: true, in_record: true }),
        (
            json!({ "tls_fragment": true, "tls_fragment_fallback_delay": "60ms" }),
            Seen { segments: 4, records: 1, in_segment: false, in_record: true },
        ),
        (
            json!({ "tls_record_fragment": true }),
            Seen { segments: 1, records: 4, in_segment: false, in_record: false },
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = ports::free();
        let _front = front(near, rule.clone()).await?;
        let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
        let target = listener.local_addr()?.into();
        let (client, reads) = tokio::join!(
            async {
                let mut stream = via.tcp(&target).await?;
                stream.write_all(&hello).await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                anyhow::Ok(())
            },
            reads(&listener)
        );
        client?;
        let reads = reads?;
        ensure!(seen(&reads) == wanted, "{rule}: {:?}", seen(&reads));
        let whole = reads.concat();
        ensure!(records(&whole).concat() == hello[5..], "{rule}: the hello has changed");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_handshake_passes_a_rule_unchanged() -> Result<()> {
    let near = ports::free();
    let _front = front(near, json!({ "tls_fragment": true, "tls_record_fragment": true })).await?;
    let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
    let origins = crosspoint_conformance::net::suite::Origins::v4().await?;
    let naming = crosspoint_conformance::net::suite::Naming::Address;
    crosspoint_conformance::net::suite::tcp(&via, &origins, naming).await
}
