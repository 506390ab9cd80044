//! The harness proves itself before it judges others.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::origin::Origin;
use crosspoint_conformance::net::suite::{self, Naming, Origins};
use crosspoint_conformance::net::{Target, Via};
use crosspoint_conformance::netns::{self, Lab};
use crosspoint_conformance::peers::Peer;
use crosspoint_conformance::ports;
use crosspoint_conformance::process::{Launch, Ready};
use crosspoint_conformance::subject::Subject;
use serde_json::json;

#[test]
fn pinned_peers_are_what_they_say() -> Result<()> {
    for (peer, args, wanted) in [
        (Peer::SingBox, ["version"], "sing-box version 1.12.12"),
        (Peer::Mihomo, ["-v"], "Mihomo Meta v1.19"),
        (Peer::Xray, ["version"], "Xray 24.11.21"),
    ] {
        let output = Command::new(peer.path()?).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains(wanted), "{}: {said}", peer.name());
    }
    Ok(())
}

#[tokio::test]
async fn suites_pass_without_a_proxy() -> Result<()> {
    for origins in [Origins::v4().await?, Origins::v6().await?] {
        suite::full(&Via::Direct, &origins, Naming::Address).await?;
        suite::udp_largest(&Via::Direct, &origins, Naming::Address).await?;
        suite::server_ends_first(&Via::Direct, &origins.source, Naming::Address).await?;
    }
    Ok(())
}

#[tokio::test]
async fn suites_find_what_is_wrong() -> Result<()> {
    let sink = Origin::tcp_sink("127.0.0.1:0").await?;
    let reset = Origin::tcp_reset("127.0.0.1:0").await?;
    let wrong = suite::tcp_ping_pong(&Via::Direct, &reset.addr().into()).await;
    ensure!(wrong.is_err(), "a reset passed for an answer");
    let wrong = suite::tcp_bulk(&Via::Direct, &sink.addr().into(), 1000).await;
    ensure!(wrong.is_err(), "a sink passed for an echo");
    Ok(())
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() -> Result<()> {
    let port = ports::free();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let config = json!({ "inbounds": [
        { "type": "mixed", "listen": "127.0.0.1", "listen_port": port, "reuse_addr": false },
    ]});
    // Not ready by the port, which is taken, but by a port that never opens.
    let launch = Subject::Reference.launch(&config)?.ready([Ready::Tcp(ports::free())]);
    let error = launch.timeout(Duration::from_secs(5)).start().await.err();
    let text = format!("{:#}", error.context("it started on a taken port")?);
    ensure!(text.contains("address already in use"), "{text}");
    drop(taken);
    Ok(())
}

#[tokio::test]
async fn a_program_ends_when_told_to_and_when_dropped() -> Result<()> {
    let mut sleeper = Launch::new("sleep", "sleep")?.args(["600"]).spawn()?;
    sleeper.stop().await?;
    let sleeper = Launch::new("sleep", "sleep")?.args(["600"]).spawn()?;
    let proc = format!("/proc/{}", sleeper.pid());
    drop(sleeper);
    ensure!(!std::path::Path::new(&proc).exists(), "the process outlived its handle");
    Ok(())
}

#[tokio::test]
async fn two_namespaces_reach_each_other_and_nothing_else() -> Result<()> {
    if !netns::available("two_namespaces_reach_each_other_and_nothing_else") {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (v4, v6) = (lab.right.v4(), lab.right.v6());
    lab.right.hosts(&[("right.test", v6)])?;

    let port = 1080;
    let config = json!({ "inbounds": [
        { "type": "mixed", "listen": "::", "listen_port": port },
    ]});
    let _proxy = Subject::Reference.launch(&config)?.netns(&lab.right).start().await?;
    let echo = lab.right.within(|| async {
        let listener = std::net::TcpListener::bind("[::1]:0")?;
        Ok(listener)
    });
    let listener = echo.await?;
    let echo_port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let copy = stream.try_clone().map(|mut from| std::io::copy(&mut from, &mut stream));
            drop(copy);
        }
    });
    lab.left
        .within(move || async move {
            for ip in [v4, v6] {
                let socks = crosspoint_conformance::net::Socks::v5((ip, port).into());
                // The proxy reads the hosts file of its namespace; `::1` of the right side is
                // where the echo server stands.
                let target = Target::Name("localhost".to_owned(), echo_port);
                suite::tcp_ping_pong(&socks.into(), &target).await?;
            }
            let out = tokio::net::TcpStream::connect("192.0.2.1:80").await;
            let error = out.err().context("there is a way out of the namespace")?;
            ensure!(error.kind() == std::io::ErrorKind::NetworkUnreachable, "{error}");
            Ok(())
        })
        .await
}
