//! `ssm-api`: the same answers as the reference, the same file, nothing of weight lost by a kill.

use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    curl,
    net::{
        Socks, Via,
        origin::Origin,
        suite::{self, Origins},
    },
    ports,
    subject::{Subject, write_config},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::rest::{Answer, KEYS, add, ask, clients, expect, managed, moved, sums};
use crate::{live::stage::until, tls::certs::Certs};

/// Requests in order. None of them gives the reference a user that it cannot have: it keeps such a user, and then refuses
/// every change (deviations.tsv).
fn requests() -> Vec<(&'static str, &'static str, String)> {
    let user = |name: &str, key: &str| json!({ "username": name, "uPSK": key }).to_string();
    let mut requests: Vec<(&str, &str, String)> = Vec::new();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/server"),
        ("GET", "/server/v1/zzz"),
        ("POST", "/server/v1"),
        ("POST", "/server/v1/stats"),
        ("PATCH", "/server/v1/users"),
        ("GET", "/server/v1/users"),
        ("GET", "/server/v1/users/"),
        ("GET", "/server/v1/users/ann"),
        ("GET", "/server/v1/users/a/b"),
        ("POST", "/server/v1/users/ann"),
        ("DELETE", "/server/v1/users/ann"),
        ("GET", "/server/v1/stats"),
        ("GET", "/server/v1/stats/"),
    ] {
        requests.push((method, path, String::new()));
    }
    let users = "/server/v1/users";
    for body in ["", "{", r#"{"username":1}"#, r#"{"username":"ann","uPSK":false}"#] {
        requests.push(("POST", users, body.to_owned()));
    }
    requests.push(("POST", users, user("ann", KEYS[0])));
    requests.push(("POST", users, user("ann", KEYS[1])));
    requests.push((
        "POST",
        users,
        r#"{"USERNAME":"b c","upsk":"MTEyMzQ1Njc4OWFiY2RlZg==","x":1} y"#.to_owned(),
    ));
    for path in [
        "/server/v1/users",
        "/server/v1/users/ann",
        "/server/v1/users/b%20c",
        "/server/v1/stats",
        "/server/v1/stats?clear=true",
    ] {
        requests.push(("GET", path, String::new()));
    }
    for (path, body) in [("ann", ""), ("nobody", ""), ("nobody", "{}")] {
        let path = if path == "ann" { "/server/v1/users/ann" } else { "/server/v1/users/nobody" };
        requests.push(("PUT", path, body.to_owned()));
    }
    requests.push(("PUT", "/server/v1/users/ann", json!({ "uPSK": KEYS[2] }).to_string()));
    requests.push(("GET", "/server/v1/users/ann", String::new()));
    requests.push(("DELETE", "/server/v1/users/ann", String::new()));
    requests.push(("DELETE", "/server/v1/users/ann", String::new()));
    requests.push(("GET", "/server/v1/users", String::new()));
    requests
}

/// Without what may differ: the order of users (the reference has none), and who answers.
fn comparable(mut answer: Answer) -> Answer {
    if let Ok(mut body) = serde_json::from_str::<Value>(&answer.body) {
        if let Some(users) = body["users"].as_array_mut() {
            users.sort_by_key(|user| user["username"].to_string());
        }
        if body.get("server").is_some() {
            body["server"] = json!("");
        }
        answer.body = body.to_string();
    }
    answer
}

#[tokio::test]
async fn the_same_requests_get_the_same_answers() -> Result<()> {
    let mut answers = Vec::new();
    for subject in [Subject::Reference, Subject::under_test()] {
        let [api, server] = ports::many();
        let _program = subject.start(&managed(api, server)).await?;
        let mut of = Vec::new();
        for (method, path, body) in requests() {
            of.push(comparable(ask(api, method, path, &body).await?));
        }
        answers.push(of);
    }
    let [reference, ours] = &answers[..] else { unreachable!("two subjects") };
    for ((request, theirs), ours) in requests().iter().zip(reference).zip(ours) {
        ensure!(theirs == ours, "{request:?}\n  reference {theirs:?}\n  ours      {ours:?}");
    }
    Ok(())
}

/// What the reference gets wrong: a user that cannot be had leaves nothing behind.
#[tokio::test]
async fn a_bad_user_is_refused_and_forgotten() -> Result<()> {
    let [api, server] = ports::many();
    let _program = Subject::under_test().start(&managed(api, server)).await?;
    add(api, "ann", KEYS[0]).await?;
    for (body, why) in [
        (json!({ "username": "bob", "uPSK": "AAAA" }), "bad key"),
        (
            json!({ "username": "bob", "uPSK": "!" }),
            "decode psk: illegal base64 data at input byte 0",
        ),
        (json!({ "username": "bob" }), "missing password"),
        (json!({ "uPSK": KEYS[1] }), "missing username"),
    ] {
        let answer = expect(api, "POST", "/server/v1/users", &body.to_string(), 400).await?;
        ensure!(answer.body == why, "{body}: {answer:?}");
    }
    expect(api, "PUT", "/server/v1/users/ann", r#"{"uPSK":"AAAA"}"#, 400).await?;
    let users = expect(api, "GET", "/server/v1/users", "", 200).await?.json()?;
    ensure!(users["users"].as_array().is_some_and(|users| users.len() == 1), "{users}");
    ensure!(users["users"][0]["uPSK"] == KEYS[0], "{users}");
    expect(api, "POST", "/server/v1/users", &"x".repeat(100_000), 413).await?;
    Ok(())
}

/// The same traffic through both: streams and datagrams of a user count the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_agree_with_the_reference() -> Result<()> {
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let udp = Origin::udp_echo("127.0.0.1:0").await?;
    let mut seen = Vec::new();
    for subject in [Subject::Reference, Subject::under_test()] {
        let [api, server, entry] = ports::many();
        let _program = subject.start(&managed(api, server)).await?;
        add(api, "ann", KEYS[0]).await?;
        add(api, "bob", KEYS[1]).await?;
        let _client = Subject::under_test().start(&clients(server, &[(entry, KEYS[0])])).await?;
        let via = Via::from(Socks::v5((Ipv4Addr::LOCALHOST, entry).into()));
        for _ in 0..3 {
            suite::tcp_bulk_open(&via, &echo.addr().into(), 1 << 20).await?;
        }
        suite::udp_ping_pong(&via, &udp.addr().into()).await?;
        suite::udp_many(&via, &udp.addr().into(), 20, 500).await?;
        let mut last = [0; 6];
        until("counters rest", Duration::from_secs(5), async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = moved(api, "ann").await.unwrap_or_default();
            std::mem::replace(&mut last, now) == now
        })
        .await?;
        ensure!(last[0] >= 3 << 20 && last[3] >= 20, "{last:?}");
        ensure!(moved(api, "bob").await? == [0; 6], "bob has moved nothing");
        let stats = expect(api, "GET", "/server/v1/stats?clear=true", "", 200).await?.json()?;
        ensure!(sums(&stats)? == last, "{stats}");
        let stats = expect(api, "GET", "/server/v1/stats", "", 200).await?.json()?;
        ensure!(sums(&stats)? == [0; 6] && sums(&stats["users"][0])? == [0; 6], "{stats}");
        seen.push(last);
    }
    ensure!(seen[0] == seen[1], "reference {:?}, ours {:?}", seen[0], seen[1]);
    Ok(())
}

/// A killed daemon knows what it knew a second before; the file is whole and private.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_a_second_at_most() -> Result<()> {
    let origins = Origins::v4().await?;
    let [api, server, entry] = ports::many();
    let config = managed(api, server);
    let launch = Subject::under_test().launch(&config)?;
    let mut daemon = launch.start().await?;
    let dir = daemon.dir().to_owned();
    add(api, "ann", KEYS[0]).await?;
    let _client = Subject::under_test().start(&clients(server, &[(entry, KEYS[0])])).await?;
    let via = Via::from(Socks::v5((Ipv4Addr::LOCALHOST, entry).into()));
    // Still open when the daemon dies.
    let mut held = via.tcp(&origins.echo.addr().into()).await?;
    suite::tcp_bulk_open(&via, &origins.echo.addr().into(), 1 << 20).await?;
    tokio::io::AsyncWriteExt::write_all(&mut held, &[7; 1000]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = moved(api, "ann").await?;
    ensure!(before[0] >= (1 << 20) + 1000, "{before:?}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    daemon.signal(Signal::KILL)?;
    daemon.wait_exit(Duration::from_secs(5)).await?;

    let file = dir.join("users.json");
    let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    let text = std::fs::read_to_string(&file)?;
    let mut again = Subject::under_test().launch(&config)?;
    std::fs::write(again.dir().join("users.json"), &text)?;
    again = again.ready([crosspoint_conformance::process::Ready::Tcp(api)]);
    let again = again.start().await?;
    ensure!(moved(api, "ann").await? == before, "{:?} is not {before:?}", moved(api, "ann").await?);
    suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.context("ann after the kill")?;
    drop(again);

    // The reference reads our file, and we read its.
    let reference = Subject::Reference.launch(&config)?;
    let theirs = reference.dir().join("users.json");
    std::fs::write(&theirs, &text)?;
    let mut reference = reference.start().await?;
    ensure!(moved(api, "ann").await? == before, "the reference reads something else");
    add(api, "bob", KEYS[1]).await?;
    reference.stop().await?;
    let ours = Subject::under_test().launch(&config)?;
    std::fs::copy(&theirs, ours.dir().join("users.json"))?;
    let mut ours = ours.start().await?;
    ensure!(moved(api, "ann").await? == before, "we read something else");
    expect(api, "GET", "/server/v1/users/bob", "", 200).await?;
    // What changes in the last moment is written at the end.
    add(api, "eve", KEYS[2]).await?;
    let dir = ours.dir().to_owned();
    ours.stop().await?;
    let text = std::fs::read_to_string(dir.join("users.json"))?;
    ensure!(text.contains("\"eve\""), "{text}");
    Ok(())
}

/// TLS, with HTTP/2 and HTTP/1.1, by curl.
#[tokio::test]
async fn it_speaks_both_versions_over_tls() -> Result<()> {
    let authority = Certs::new("ssm")?;
    let files = authority.issue("server", &["localhost"])?;
    let [api, server] = ports::many();
    let mut config = managed(api, server);
    config["services"][0]["tls"] = files.server();
    config["services"][0]["tls"]["enabled"] = json!(true);
    let _program = Subject::under_test().start(&config).await?;
    let trusted = authority.file();
    let trusted = trusted.to_string_lossy();
    let user = json!({ "username": "ann", "uPSK": KEYS[0] }).to_string();
    let url = format!("https://localhost:{api}/server/v1/users");
    let to = format!("localhost:{api}:127.0.0.1");
    let base = ["--cacert", &*trusted, "--resolve", &*to];
    for (version, method, path, status) in [
        ("--http2", "POST", "", 201),
        ("--http1.1", "GET", "/ann", 200),
        ("--http2", "GET", "/ann", 200),
        ("--http1.1", "DELETE", "/ann", 204),
    ] {
        let url = format!("{url}{path}");
        let mut args = base.to_vec();
        args.extend([version, "-X", method, &url]);
        if method == "POST" {
            args.extend(["--data", &user]);
        }
        let fetched = curl::fetch(&args).await?;
        ensure!(fetched.status == status, "{version} {method}: {fetched:?}");
    }
    // The protocol that is agreed on.
    let fetched =
        curl::fetch(&[&base[..], &["--http2", "--write-out", "%{http_version} ", &url]].concat())
            .await?;
    ensure!(format!("{fetched:?}").contains('2'), "{fetched:?}");
    Ok(())
}

/// What is wrong is said at start, in the words of the reference.
#[tokio::test]
async fn mistakes_are_found_by_check() -> Result<()> {
    let [api, server] = ports::many();
    let good = managed(api, server);
    let change = |pointer: &str, value: Value| {
        let mut config = good.clone();
        *config.pointer_mut(pointer).expect("a place") = value;
        config
    };
    for (config, why) in [
        (change("/services/0/servers", json!({})), "missing servers"),
        (
            change("/services/0/servers", json!({ "/": "nobody" })),
            "parse SSM server[0]: inbound nobody not found",
        ),
        (
            change("/inbounds/0", json!({ "type": "mixed", "tag": "ss", "listen_port": server })),
            "parse SSM server[0]: inbound/mixed[ss] is not a SSM server",
        ),
        (
            change("/inbounds/0/managed", json!(false)),
            "parse SSM server[0]: inbound/shadowsocks[ss] is not a SSM server",
        ),
    ] {
        for subject in [Subject::Reference, Subject::under_test()] {
            if subject.is_reference() && why == "missing servers" {
                // It dies of a null pointer.
                continue;
            }
            let dir = tempfile::tempdir()?;
            write_config(dir.path(), &config)?;
            let output = subject.run_cli(dir.path(), ["check", "-c", "config.json"], &[])?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                !output.status.success() && text.contains(why),
                "{}: {why}: {text}",
                subject.name()
            );
        }
    }
    Ok(())
}
