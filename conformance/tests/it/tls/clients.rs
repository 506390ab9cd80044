//! Clients and servers that nobody here has written: curl and OpenSSL.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::curl::fetch;
use crosspoint_conformance::net::http::{HELLO, http_origin};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::json;

use super::{certs::Certs, inbound, outbound};

#[tokio::test]
async fn curl_speaks_tls_to_the_proxy() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let stranger = Certs::new("another authority")?;
    let good = certs.issue("good", &["localhost", "127.0.0.1"])?;
    let expired = certs.issue_expired("old", &["localhost"])?;
    let origin = http_origin("127.0.0.1:0").await?;
    let url = format!("http://127.0.0.1:{}/", origin.addr().port());
    let [http, mixed, old, twelve] = ports::many();
    let mut only12 = good.server();
    only12["max_version"] = json!("1.2");
    let tagged = |kind: &str, port, tls, tag: &str| {
        let mut inbound = inbound(kind, port, tls);
        inbound["tag"] = json!(tag);
        inbound
    };
    let _program = Subject::under_test()
        .start(&json!({ "inbounds": [
            tagged("http", http, good.server(), "a"),
            tagged("mixed", mixed, good.server(), "b"),
            tagged("http", old, expired.server(), "c"),
            tagged("http", twelve, only12, "d"),
        ]}))
        .await?;
    let (trusted, other) = (certs.file(), stranger.file());
    let (trusted, other) = (trusted.to_string_lossy(), other.to_string_lossy());
    let run = async |port: u16, host: &str, ca: &str, more: &[&str]| {
        let proxy = format!("https://{host}:{port}");
        let mut args = vec!["--proxy", &proxy, "--proxy-cacert", ca];
        args.extend(more);
        args.push(&url);
        fetch(&args).await
    };
    for port in [http, mixed, twelve] {
        for tunnel in [&[][..], &["--proxytunnel"]] {
            let got = run(port, "localhost", &trusted, tunnel).await?;
            ensure!(got.body == HELLO, "{port} {tunnel:?}: {got:?}");
        }
    }
    let got = run(http, "127.0.0.1", &trusted, &[]).await?;
    ensure!(got.body == HELLO, "{got:?}");
    // 60 is curl's exit for a certificate that it does not trust.
    for (port, ca) in [(http, &other), (old, &trusted)] {
        let got = run(port, "localhost", ca, &[]).await?;
        ensure!(got.exit == 60 && got.body.is_empty(), "{port}: {got:?}");
    }
    Ok(())
}

#[tokio::test]
async fn openssl_finds_nothing_wrong() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let files = certs.issue("good", &["localhost"])?;
    let port = ports::free();
    let mut tls = files.server();
    tls["alpn"] = json!(["x", "http/1.1"]);
    let _program =
        Subject::under_test().start(&json!({ "inbounds": [inbound("http", port, tls)] })).await?;
    for (args, wanted) in [
        (&["-tls1_3"][..], &["TLSv1.3", "Verify return code: 0 (ok)"][..]),
        (&["-tls1_2"], &["TLSv1.2", "Verify return code: 0 (ok)", "Extended master secret: yes"]),
        (&["-alpn", "http/1.1"], &["ALPN protocol: http/1.1"]),
        (&["-alpn", "y"], &["no application protocol"]),
        (&["-groups", "X25519:P-256"], &["X25519"]),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
            &["ECDHE-ECDSA-AES256-GCM-SHA384"],
        ),
    ] {
        let address = format!("127.0.0.1:{port}");
        let mut command = std::process::Command::new("openssl");
        command
            .args(["s_client", "-connect", &address, "-servername", "localhost"])
            .args(["-verify_hostname", "localhost", "-CAfile"])
            .arg(certs.file())
            .args(args)
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.context("the program `openssl` is missing")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        for text in wanted {
            ensure!(said.contains(text), "s_client {args:?} does not say {text:?}:\n{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn certificates_of_the_proxy_are_judged() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let stranger = Certs::new("another authority")?;
    let good = certs.issue("good", &["proxy.test"])?;
    let expired = certs.issue_expired("old", &["proxy.test"])?;
    let origin = http_origin("127.0.0.1:0").await?;
    let url = format!("http://127.0.0.1:{}/", origin.addr().port());
    let [valid, old, h2] = ports::many();
    let mut alpn = good.server();
    alpn["alpn"] = json!("special");
    let tagged = |port, tls, tag: &str| {
        let mut inbound = inbound("http", port, tls);
        inbound["tag"] = json!(tag);
        inbound
    };
    let _back = Subject::Reference
        .start(&json!({ "inbounds": [
            tagged(valid, good.server(), "a"),
            tagged(old, expired.server(), "b"),
            tagged(h2, alpn, "c"),
        ]}))
        .await?;
    let (ca, other) = (certs.pem(), stranger.pem());
    for (port, tls, section, says) in [
        (valid, json!({ "server_name": "proxy.test", "certificate": ca }), json!({}), ""),
        (valid, json!({ "server_name": "proxy.test" }), json!({ "certificate": ca }), ""),
        (valid, json!({ "server_name": "proxy.test" }), json!({}), "unknown authority"),
        (
            valid,
            json!({ "server_name": "proxy.test" }),
            json!({ "store": "mozilla" }),
            "unknown authority",
        ),
        (
            valid,
            json!({ "server_name": "proxy.test" }),
            json!({ "store": "none" }),
            "unknown authority",
        ),
        (
            valid,
            json!({ "server_name": "proxy.test", "certificate": other }),
            json!({}),
            "unknown authority",
        ),
        (
            valid,
            json!({ "certificate": ca }),
            json!({}),
            "is not valid for 127.0.0.1, only for proxy.test",
        ),
        (
            valid,
            json!({ "server_name": "x.test", "certificate": ca }),
            json!({}),
            "is not valid for x.test",
        ),
        (valid, json!({ "server_name": "x.test", "insecure": true }), json!({}), ""),
        (
            old,
            json!({ "server_name": "proxy.test", "certificate": ca }),
            json!({}),
            "expired at 2002-01-01",
        ),
        (
            h2,
            json!({ "server_name": "proxy.test", "certificate": ca, "alpn": "other" }),
            json!({}),
            "no common application protocol",
        ),
        (
            valid,
            json!({ "server_name": "proxy.test", "certificate": ca, "min_version": "1.3" }),
            json!({}),
            "",
        ),
    ] {
        let near = ports::free();
        let config = json!({
            "certificate": section,
            "inbounds": [inbound("mixed", near, serde_json::Value::Null)],
            "outbounds": [outbound(port, tls.clone())],
        });
        let front = Subject::under_test().start(&config).await?;
        let got = fetch(&["--proxy", &format!("http://127.0.0.1:{near}"), &url]).await?;
        if says.is_empty() {
            ensure!(got.body == HELLO, "{tls}: {got:?}\n{}", front.log_tail());
        } else {
            ensure!(got.body != HELLO, "{tls} {section}: accepted");
            let log = front.log();
            ensure!(log.contains(says), "{tls} {section}: the log does not say {says:?}:\n{log}");
        }
    }
    Ok(())
}
