//! WireGuard in user space, with the reference on the other side: streams and datagrams through the tunnel both ways,
//! several peers, strangers, peers that come, go and move.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::suite::{self, Origins},
    subject::Subject,
};
use serde_json::json;
use tokio::{net::UdpSocket, time::Instant};

use super::wireguard_stage::{End, SECRET, all, reload, served, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_with_the_reference() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    for more in [json!({}), json!({ "mtu": 1280 })] {
        let config = ours.config(&[theirs.peer(SECRET)], &theirs, &more);
        let _ours = start(&Subject::under_test(), &config).await?;
        let config = theirs.config(&[ours.peer(SECRET)], &ours, &more);
        let _theirs = start(&Subject::Reference, &config).await?;
        all(&ours, "through us to the reference").await?;
        all(&theirs, "through the reference to us").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_is_met_again() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer("")], &theirs, &json!({}));
    let mut program = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer("")], &ours, &json!({}));
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr().into();
    for _ in 0..2 {
        let peer = start(&Subject::Reference, &config).await?;
        // The session that the peer has forgotten is found out by its silence.
        let end = Instant::now() + Duration::from_secs(60);
        while suite::tcp_ping_pong(&ours.via(), &echo).await.is_err() {
            ensure!(Instant::now() < end, "the tunnel stays dead: {}", program.log_tail());
        }
        drop(peer);
    }
    program.stop().await?;
    Ok(())
}

/// A third peer comes and goes by reload: the flow of the second one lives on, and the third one's key means nothing before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_change_by_reload() -> Result<()> {
    let (ours, second, third) = (End::new(1)?, End::new(2)?, End::new(3)?);
    let alone = ours.config(&[second.peer(SECRET)], &second, &json!({}));
    let both = ours.config(&[second.peer(SECRET), third.peer("")], &second, &json!({}));
    let program = start(&Subject::under_test(), &alone).await?;
    let _second =
        start(&Subject::Reference, &second.config(&[ours.peer(SECRET)], &ours, &json!({}))).await?;
    let _third =
        start(&Subject::Reference, &third.config(&[ours.peer("")], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flow = second.socks().connect(&echo.into()).await.context("a long flow")?;
    let mut beat = async || {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        flow.write_all(b"still here").await?;
        let mut back = [0; 10];
        flow.read_exact(&mut back).await.context("the long flow")?;
        ensure!(&back == b"still here");
        anyhow::Ok(())
    };
    beat().await?;
    ensure!(!served(&third, &echo.into()).await, "a peer that nobody configured is served");
    reload(&program, &both)?;
    beat().await?;
    let end = Instant::now() + Duration::from_secs(30);
    while suite::tcp_ping_pong(&third.via(), &echo.into()).await.is_err() {
        ensure!(Instant::now() < end, "the new peer is not served: {}", program.log_tail());
    }
    beat().await?;
    reload(&program, &alone)?;
    beat().await?;
    ensure!(!served(&third, &echo.into()).await, "a peer that was removed is served");
    beat().await?;
    Ok(())
}

/// The component is restarted while a flow goes through it, and nonsense is sent to its port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_outlive_a_restart_and_nonsense() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer(SECRET)], &theirs, &json!({}));
    let program = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer(SECRET)], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut out = ours.socks().connect(&echo.into()).await.context("out")?;
    let mut back = theirs.socks().connect(&echo.into()).await.context("in")?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for round in 0..5_u8 {
        for kind in 0..5_u8 {
            for len in [1, 4, 31, 32, 64, 92, 148, 149, 1400] {
                let mut message = vec![round ^ 0x5a; len];
                message[0] = kind;
                socket.send_to(&message, ("127.0.0.1", ours.port)).await?;
            }
        }
        program.ctl(&["restart", "endpoint/tunnel"])?;
        for flow in [&mut out, &mut back] {
            flow.write_all(b"still here").await?;
            let mut got = [0; 10];
            let read = tokio::time::timeout(Duration::from_secs(10), flow.read_exact(&mut got));
            read.await.context("silent")?.context("a flow ended")?;
        }
        suite::tcp_ping_pong(&ours.via(), &echo.into()).await.context("a new flow out")?;
        suite::tcp_ping_pong(&theirs.via(), &echo.into()).await.context("a new flow in")?;
    }
    Ok(())
}

/// A hundred flows at once in each direction, bulk among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_flows_share_a_tunnel() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer("")], &theirs, &json!({}));
    let _ours = start(&Subject::under_test(), &config).await?;
    let config = theirs.config(&[ours.peer("")], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &config).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flows = tokio::task::JoinSet::new();
    for n in 0..200_u64 {
        let via = if n % 2 == 0 { ours.via() } else { theirs.via() };
        flows.spawn(async move {
            let len = if n % 20 < 2 { 1_000_000 } else { 20_000 };
            suite::tcp_bulk(&via, &echo.into(), len).await.with_context(|| format!("flow {n}"))
        });
    }
    while let Some(done) = flows.join_next().await {
        done??;
    }
    Ok(())
}
