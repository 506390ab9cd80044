//! `curl` through every inbound, over IPv4 and IPv6, to names and to addresses.

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::curl::{self, fetch};
use crosspoint_conformance::net::http::HELLO;
use crosspoint_conformance::subject::Subject;

use super::stage::{PASSWORD, Stage, USER};

#[tokio::test]
async fn curl_fetches_through_every_inbound() -> Result<()> {
    curl::version()?;
    let stage = Stage::start(&Subject::under_test()).await?;
    let p = stage.ports;
    let web4 = format!("http://127.0.0.1:{}/", stage.web4.addr().port());
    let web6 = format!("http://[::1]:{}/", stage.web6.addr().port());
    let named = format!("http://localhost:{}/", stage.web4.addr().port());

    let (all, v4, by_name) = (vec![&web4, &web6, &named], vec![&web4], vec![&named]);
    // What curl can ask for depends on the dialect: version 4 knows neither IPv6 nor names.
    let cases = [
        ("socks5", vec![p.mixed, p.socks], &all),
        ("socks5h", vec![p.mixed, p.socks], &all),
        ("socks4", vec![p.mixed, p.socks], &v4),
        ("socks4a", vec![p.mixed, p.socks], &by_name),
        ("http", vec![p.mixed, p.http], &all),
    ];
    for (scheme, inbounds, urls) in cases {
        for port in inbounds {
            for url in urls {
                let proxy = format!("{scheme}://127.0.0.1:{port}");
                good(&["--proxy", &proxy, url]).await?;
            }
        }
    }
    // HTTP by CONNECT, and the inbound that listens on ::1.
    for port in [p.mixed, p.http] {
        let proxy = format!("http://127.0.0.1:{port}");
        for url in &all {
            good(&["--proxytunnel", "--proxy", &proxy, url]).await?;
        }
    }
    for scheme in ["socks5h", "http"] {
        let proxy = format!("{scheme}://[::1]:{}", p.mixed6);
        for url in &all {
            good(&["--proxy", &proxy, url]).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn curl_logs_in_or_is_refused() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    let p = stage.ports;
    let url = format!("http://127.0.0.1:{}/", stage.web4.addr().port());
    let login = format!("{USER}:{PASSWORD}");
    for (scheme, port) in [
        ("socks5h", p.mixed_login),
        ("socks5h", p.socks_login),
        ("http", p.mixed_login),
        ("http", p.http_login),
    ] {
        let proxy = format!("{scheme}://127.0.0.1:{port}");
        let with = ["--proxy", &proxy, "--proxy-user", &login, &url];
        good(&with).await?;
        let wrong = ["--proxy", &proxy, "--proxy-user", "alice:wrong", &url];
        for refused in [&["--proxy", &proxy, url.as_str()][..], &wrong] {
            let got = fetch(refused).await?;
            ensure!(got.body != HELLO, "{refused:?} got in");
            if scheme == "http" {
                ensure!(got.status == 407, "{refused:?}: {got:?}");
            } else {
                ensure!(got.exit == 97, "{refused:?}: {got:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn curl_moves_bodies_both_ways() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    let base = format!("http://127.0.0.1:{}", stage.web4.addr().port());
    let body = "b".repeat(300_000);
    for scheme in ["socks5h", "socks4a", "http"] {
        let proxy = format!("{scheme}://127.0.0.1:{}", stage.ports.mixed);
        let url = format!("{base}/bytes/1000000");
        let got = fetch(&["--proxy", &proxy, &url]).await?;
        ensure!(got.body.len() == 1_000_000, "{scheme}: {} bytes came", got.body.len());
        // From a file: an argument may not be that long.
        let file = stage.program.dir().join("body");
        std::fs::write(&file, &body)?;
        let data = format!("@{}", file.display());
        let post = format!("{base}/anything");
        let got = fetch(&["--proxy", &proxy, "--data-binary", &data, &post]).await?;
        ensure!(got.body == body, "{scheme}: {} bytes of the body came back", got.body.len());
        let got = fetch(&["--proxy", &proxy, &format!("{base}/chunked")]).await?;
        ensure!(got.body == "hello", "{scheme}: a body in chunks became {:?}", got.body);
        let got = fetch(&["--proxy", &proxy, &format!("{base}/close")]).await?;
        ensure!(got.body == "until the end\n", "{scheme}: {:?}", got.body);
    }
    Ok(())
}

async fn good(args: &[&str]) -> Result<()> {
    let got = fetch(args).await.with_context(|| format!("curl {args:?}"))?;
    ensure!(got.exit == 0 && got.status == 200, "curl {args:?}: {got:?}");
    ensure!(got.body == HELLO, "curl {args:?}: {got:?}");
    Ok(())
}
