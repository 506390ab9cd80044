//! Encrypted Client Hello towards the reference.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::suite::{self, Naming, Origins};
use crosspoint_conformance::net::{Socks, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::svcb::{EchConfigList, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::{certs::Certs, inbound, outbound};

/// Configurations and keys of a fresh pair.
fn pair() -> Result<(String, String)> {
    let output = Command::new(Subject::Reference.binary()?)
        .args(["generate", "ech-keypair", "public.test"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let at = text.find("-----BEGIN ECH KEYS-----").context("no keys")?;
    let (configs, keys) = text.split_at(at);
    Ok((configs.trim().to_owned(), keys.trim().to_owned()))
}

#[tokio::test]
async fn the_reference_decrypts_our_hello() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let secret = certs.issue("secret", &["secret.test"])?;
    let ((configs, keys), (others, _)) = (pair()?, pair()?);
    let origins = Origins::v4().await?;
    let (far, near, wrong) = (ports::free(), ports::free(), ports::free());
    let mut tls = secret.server();
    tls["ech"] = json!({ "enabled": true, "key": keys });
    let _back =
        Subject::Reference.start(&json!({ "inbounds": [inbound("http", far, tls)] })).await?;
    let client = |config: &str, fragment: bool, tag: &str| {
        let mut out = outbound(
            far,
            json!({ "server_name": "secret.test", "certificate": certs.pem(),
                    "record_fragment": fragment, "ech": { "enabled": true, "config": config } }),
        );
        out["tag"] = json!(tag);
        out
    };
    let (mut good_in, mut wrong_in) =
        (inbound("mixed", near, Value::Null), inbound("mixed", wrong, Value::Null));
    (good_in["tag"], wrong_in["tag"]) = (json!("good"), json!("wrong"));
    let front = Subject::under_test()
        .start(&json!({
            "inbounds": [good_in, wrong_in],
            "outbounds": [client(&configs, true, "right"), client(&others, false, "other")],
            "route": { "rules": [{ "inbound": "wrong", "outbound": "other" }] },
        }))
        .await?;
    let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
    suite::tcp(&via, &origins, Naming::Address).await.with_context(|| front.log_tail())?;
    // With keys of somebody else the server sees the public name only, and cannot prove to be it.
    let via = Via::from(Socks::v5(([127, 0, 0, 1], wrong).into()));
    ensure!(suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.is_err());
    ensure!(front.log().contains("is not valid for public.test"), "{}", front.log_tail());
    Ok(())
}

/// The list of configurations in PEM, as the DNS has it.
fn list(pem: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for byte in pem.lines().filter(|line| !line.starts_with("-----")).flat_map(str::bytes) {
        let Some(value) = alphabet.iter().position(|letter| *letter == byte) else { continue };
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    out
}

/// A DNS server whose every HTTPS record has that list; counts them.
async fn dns(list: Vec<u8>, asked: Arc<AtomicUsize>) -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let addr = socket.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer).await {
            let Ok(mut message) = Message::from_vec(&buffer[..n]) else { continue };
            message.metadata.message_type = MessageType::Response;
            let https = message.queries.first().filter(|q| q.query_type() == RecordType::HTTPS);
            if let Some(name) = https.map(|query| query.name().clone()) {
                asked.fetch_add(1, Ordering::Relaxed);
                let ech = SvcParamValue::EchConfigList(EchConfigList(list.clone()));
                let service = SVCB::new(1, Name::root(), vec![(SvcParamKey::EchConfigList, ech)]);
                let data = RData::HTTPS(HTTPS(service));
                message.answers.push(Record::from_rdata(name, 60, data));
            }
            if let Ok(answer) = message.to_vec() {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    Ok(addr)
}

#[tokio::test]
async fn a_configuration_comes_from_the_dns() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let secret = certs.issue("secret", &["secret.test"])?;
    let (configs, keys) = pair()?;
    let asked = Arc::new(AtomicUsize::new(0));
    let dns = dns(list(&configs), asked.clone()).await?;
    let origins = Origins::v4().await?;
    let [far, near] = ports::many();
    let mut tls = secret.server();
    tls["ech"] = json!({ "enabled": true, "key": keys });
    let _back =
        Subject::Reference.start(&json!({ "inbounds": [inbound("http", far, tls)] })).await?;
    let options = json!({ "server_name": "secret.test", "certificate": certs.pem(), "ech": { "enabled": true } });
    let front = Subject::under_test()
        .start(&json!({
            "dns": { "servers": [{ "type": "udp", "tag": "d", "server": "127.0.0.1", "server_port": dns.port() }] },
            "inbounds": [inbound("mixed", near, Value::Null)],
            "outbounds": [outbound(far, options)],
        }))
        .await?;
    let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
    for _ in 0..3 {
        suite::tcp_ping_pong(&via, &origins.echo.addr().into())
            .await
            .with_context(|| front.log_tail())?;
    }
    ensure!(asked.load(Ordering::Relaxed) == 1, "asked {asked:?} times");
    Ok(())
}
