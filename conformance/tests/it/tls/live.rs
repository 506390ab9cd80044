//! Certificates and authorities that change under live connections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crosspoint_conformance::curl::fetch;
use crosspoint_conformance::net::http::{HELLO, http_origin};
use crosspoint_conformance::net::suite::{self, Origins};
use crosspoint_conformance::net::{Socks, Via, within};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{certs::Certs, inbound, outbound};

const STEP: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_new_certificate_breaks_no_connection() -> Result<()> {
    let (old, new) = (Certs::new("the old authority")?, Certs::new("the new authority")?);
    let files = old.issue("proxy", &["localhost"])?;
    let origins = Origins::v4().await?;
    let web = http_origin("127.0.0.1:0").await?;
    let url = format!("http://127.0.0.1:{}/", web.addr().port());
    let (near, far) = (ports::free(), ports::free());
    let back = Subject::under_test()
        .start(&json!({ "inbounds": [inbound("http", far, files.server())] }))
        .await?;
    let both = format!("{}{}", old.pem(), new.pem());
    let tls = json!({ "certificate": both, "server_name": "localhost" });
    let _front = Subject::Reference
        .start(&json!({
            "inbounds": [inbound("mixed", near, Value::Null)],
            "outbounds": [outbound(far, tls)],
        }))
        .await?;
    let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
    let echo = origins.echo.addr().into();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(via.tcp(&echo).await?);
    }
    let shows = async |certs: &Certs| {
        let (proxy, ca) = (format!("https://localhost:{far}"), certs.file());
        let got =
            fetch(&["--proxy", &proxy, "--proxy-cacert", &ca.to_string_lossy(), &url]).await?;
        anyhow::Ok(got.body == HELLO)
    };
    ensure!(shows(&old).await? && !shows(&new).await?);
    new.replace(&files, &["localhost"])?;
    let begin = Instant::now();
    while !shows(&new).await? {
        ensure!(begin.elapsed() < STEP, "no new certificate: {}", back.log_tail());
        for stream in &mut streams {
            ping(stream).await?;
        }
    }
    ensure!(!shows(&old).await?);
    for stream in &mut streams {
        ping(stream).await?;
    }
    suite::tcp_ping_pong(&via, &echo).await
}

async fn ping(stream: &mut tokio::net::TcpStream) -> Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    within("answer", STEP, stream.read_exact(&mut answer)).await?;
    ensure!(&answer == b"ping");
    Ok(())
}

#[tokio::test]
async fn a_reload_changes_whom_clients_trust() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let files = certs.issue("proxy", &["localhost"])?;
    let web = http_origin("127.0.0.1:0").await?;
    let url = format!("http://127.0.0.1:{}/", web.addr().port());
    let (near, far) = (ports::free(), ports::free());
    let _back = Subject::Reference
        .start(&json!({ "inbounds": [inbound("http", far, files.server())] }))
        .await?;
    let config = |certificate: Value| {
        json!({
            "certificate": certificate,
            "inbounds": [inbound("mixed", near, Value::Null)],
            "outbounds": [outbound(far, json!({ "server_name": "localhost" }))],
        })
    };
    let mut front = Subject::under_test().start(&config(json!({ "store": "none" }))).await?;
    let proxy = format!("http://127.0.0.1:{near}");
    let trusts = async || anyhow::Ok(fetch(&["--proxy", &proxy, &url]).await?.body == HELLO);
    ensure!(!trusts().await?);
    for (section, wanted) in [
        (json!({ "certificate_path": certs.file() }), true),
        (json!({ "store": "mozilla" }), false),
        (json!({ "store": "none", "certificate": certs.pem() }), true),
    ] {
        front.reload(&config(section.clone()))?;
        let begin = Instant::now();
        while trusts().await? != wanted {
            ensure!(begin.elapsed() < STEP, "{section}: {}", front.log_tail());
        }
    }
    Ok(())
}
