//! Nonsense, half handshakes and slow readers: each costs whoever does it, and nobody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::pattern::Pattern,
    tailnet::derp::{Client, Frame, Hello, Keys, kind, random},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::stage::{Derp, STEP, Server, World, is_closed, is_ours, packet, says};

/// Bytes in the place of a login.
fn logins() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let info = |body: &[u8]| Frame::bytes(kind::CLIENT_INFO, &[body]);
    Ok(vec![
        ("noise", Pattern::new(1).take(4096)),
        ("zeros", vec![0; 4096]),
        ("another type of frame", Frame::bytes(kind::SEND, &[&[1; 100]])),
        ("a frame of 4 GiB", [&[kind::CLIENT_INFO][..], &[0xff; 4], &[1; 1000]].concat()),
        (
            "a frame of 300 kB",
            [&[kind::CLIENT_INFO][..], &300_000_u32.to_be_bytes(), &[1; 1000]].concat(),
        ),
        ("an empty frame", info(&[])),
        ("a key and no box", info(&random::<32>()?)),
        ("a key and a nonce", info(&random::<56>()?)),
        ("a box of somebody else", info(&random::<200>()?)),
        ("a key that is no point", info(&[0; 200])),
        ("half a login", info(&random::<200>()?)[..100].to_vec()),
        ("half a head", vec![kind::CLIENT_INFO, 0, 0]),
    ])
}

/// Frames of somebody who is logged in and may not send them, or not so.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a packet without a whole key", Frame::bytes(kind::SEND, &[&[1; 31]])),
        ("a packet of 4 GiB", [&[kind::SEND][..], &[0xff; 4], &[1; 1000]].concat()),
        ("a packet of 70 kB", Frame::bytes(kind::SEND, &[&[1; 70_000]])),
        ("a short ping", Frame::bytes(kind::PING, &[&[1; 7]])),
        ("a long ping", Frame::bytes(kind::PING, &[&[1; 2000]])),
        ("a long preference", Frame::bytes(kind::NOTE_PREFERRED, &[&[1; 2]])),
        ("a watch without the mesh's key", Frame::bytes(kind::WATCH, &[])),
        ("a forward without the mesh's key", Frame::bytes(kind::FORWARD, &[&[1; 100]])),
        ("a close without the mesh's key", Frame::bytes(kind::CLOSE_PEER, &[&[1; 32]])),
    ]
}

/// What does not even reach the protocol.
async fn below(server: &Server, number: usize) -> Result<()> {
    let mut stream = TcpStream::connect(server.addr()).await?;
    match number % 3 {
        0 => stream.write_all(&Pattern::new(number as u64).take(700)).await?,
        1 => stream.write_all(b"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n").await?,
        // A client hello that never ends.
        _ => stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await?,
    }
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut rest));
    drop(reading.await);
    Ok(())
}

/// Frames there and back until it is told to stop; how many.
async fn chat(
    mut ann: Derp,
    mut bob: Derp,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<u64> {
    let mut rounds = 0;
    while !*stop.borrow() {
        let text = Pattern::new(rounds).take(1 + (rounds as usize * 37) % 3000);
        says(&mut ann, &mut bob, &text).await?;
        says(&mut bob, &mut ann, &text).await?;
        rounds += 1;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_harms_nobody() -> Result<()> {
    let world = World::new()?;
    let server = std::sync::Arc::new(world.start(&json!({ "mesh_psk": "ab".repeat(32) })).await?);
    let (ann, bob) = (server.client().await?, server.client().await?);
    let before = server.running.fds();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let talk = tokio::spawn(chat(ann, bob, stopped));
    for (what, bytes) in logins()? {
        let hello = Hello { fast: true, ..Hello::default() };
        let (mut reader, mut writer, _) = Client::upgrade(server.tls().await?, &hello).await?;
        writer.raw(&bytes).await?;
        if what.starts_with("half") {
            continue;
        }
        let ended = tokio::time::timeout(STEP, reader.frame()).await;
        ensure!(ended.is_ok_and(|frame| frame.is_err()), "{what} is answered, or waited for");
    }
    for (what, bytes) in frames() {
        let mut client = server.client().await?;
        // The server may close before everything is written.
        drop(client.writer.raw(&bytes).await);
        is_closed(&mut client).await.with_context(|| what.to_owned())?;
    }
    let wrong_mesh = Hello { mesh: Some("cd".repeat(32)), ..Hello::default() };
    let mut client = server.login_as(&Keys::generate()?, &wrong_mesh).await?;
    client.writer.frame(kind::WATCH, &[]).await?;
    is_closed(&mut client).await.context("a watch with the key of another mesh")?;

    let mut crowd = JoinSet::new();
    for number in 0..60 {
        let server = server.clone();
        crowd.spawn(async move { below(&server, number).await });
    }
    while let Some(done) = crowd.join_next().await {
        done??;
    }
    stop.send(true)?;
    let rounds = talk.await?.context("those whom nothing of it concerned")?;
    ensure!(rounds > 20, "{rounds} rounds");
    let begin = Instant::now();
    while server.running.fds() > before + 2 {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "{} descriptors, {before} before",
            server.running.fds()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Somebody who does not read is sent 60 MB. Who reads loses nothing, and the server does not keep what nobody takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_loses_its_own_frames_only() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({})).await?;
    let (mut ann, mut bob) = (server.client().await?, server.client().await?);
    let mut slow = server.client().await?;
    says(&mut ann, &mut slow, b"while it reads").await?;
    says(&mut ann, &mut bob, b"before").await?;
    let before = server.running.rss();
    let (large, rounds, to) = (vec![7; 30_000], 200_u32, bob.key);
    let reading = tokio::spawn(async move {
        for number in 0..rounds {
            let heard = packet(&mut bob).await.with_context(|| format!("packet {number}"))?.1;
            ensure!(heard == number.to_be_bytes(), "{heard:?} in the place of {number}");
        }
        anyhow::Ok(bob)
    });
    for number in 0..rounds {
        for _ in 0..10 {
            ann.writer.send(&slow.key, &large).await?;
        }
        ann.writer.send(&to, &number.to_be_bytes()).await?;
    }
    let mut bob = reading.await??;
    let grown = server.running.rss().saturating_sub(before);
    if is_ours("memory for one who does not read") {
        ensure!(grown < 16 << 20, "grown by {grown} bytes");
    }
    // It may have been closed by now. If it was not, what comes is whole, and it is served again.
    let mut taken = 0;
    while let Ok(Ok(frame)) =
        tokio::time::timeout(Duration::from_millis(500), slow.reader.frame()).await
    {
        if frame.kind == kind::RECV {
            let (from, packet) = frame.keyed()?;
            ensure!(from == ann.key && packet == large, "a damaged frame");
            taken += 1;
        }
    }
    ensure!(taken < rounds * 10, "nothing was lost, so nothing was shown");
    println!(
        "{taken} of {} frames reached the slow one; RSS grew by {} kB",
        rounds * 10,
        grown >> 10
    );
    says(&mut ann, &mut bob, b"after").await
}
