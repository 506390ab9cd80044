//! What is no TLS at a TLS port, and what is no TLS behind a TLS client.

use std::time::Duration;

use anyhow::{Result, ensure};
use crosspoint_conformance::curl::fetch;
use crosspoint_conformance::net::http::{HELLO, http_origin};
use crosspoint_conformance::net::within;
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{certs::Certs, inbound, outbound};

#[tokio::test]
async fn nonsense_at_the_server_harms_nobody() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let files = certs.issue("good", &["localhost"])?;
    let origin = http_origin("127.0.0.1:0").await?;
    let url = format!("http://127.0.0.1:{}/", origin.addr().port());
    let port = ports::free();
    let mut program = Subject::under_test()
        .start(&json!({ "inbounds": [inbound("http", port, files.server())] }))
        .await?;
    let nonsense: [&[u8]; 7] = [
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\x05\x01\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa",
        &[0xff; 4096],
    ];
    for bytes in nonsense {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut rest = Vec::new();
        // An alert, a reset or nothing: but an end, soon.
        let end = within("end", Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        ensure!(
            end.is_ok() || !format!("{:#}", end.unwrap_err()).contains("end"),
            "{bytes:?} hangs"
        );
    }
    // A handshake that stops in the middle, by the hundred: others are served meanwhile.
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await?;
        silent.push(stream);
    }
    let (proxy, ca) = (format!("https://localhost:{port}"), certs.file());
    let got = fetch(&["--proxy", &proxy, "--proxy-cacert", &ca.to_string_lossy(), &url]).await?;
    ensure!(got.body == HELLO, "{got:?}\n{}", program.log_tail());
    ensure!(
        program.try_exit().is_none() && !program.log().contains("panick"),
        "{}",
        program.log_tail()
    );
    Ok(())
}

#[tokio::test]
async fn nonsense_behind_the_client_is_an_error() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let far = listener.local_addr()?.port();
    let near = ports::free();
    let front = Subject::under_test()
        .start(&json!({
            "inbounds": [inbound("mixed", near, Value::Null)],
            "outbounds": [outbound(far, json!({ "insecure": true }))],
        }))
        .await?;
    let answers: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "handshake failure"),
        (b"", "closed the connection"),
    ];
    for (answer, says) in answers {
        let serve = async {
            let (mut stream, _) = listener.accept().await?;
            let mut hello = [0; 2048];
            let _ = stream.read(&mut hello).await?;
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            let _ = stream.read(&mut hello).await;
            anyhow::Ok(())
        };
        let proxy = format!("http://127.0.0.1:{near}");
        let args = ["--proxy", &proxy, "--proxytunnel", "http://a.test/"];
        let (served, got) = tokio::join!(serve, fetch(&args));
        served?;
        ensure!(got?.status == 0, "{answer:?}");
        ensure!(front.log().contains(says), "{answer:?}: no {says:?} in\n{}", front.log_tail());
    }
    Ok(())
}
