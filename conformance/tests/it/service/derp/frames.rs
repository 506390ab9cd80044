//! What a server does with frames of clients that are logged in.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use crosspoint_conformance::{
    net::pattern::Pattern,
    tailnet::derp::{Hello, Keys, MAX_PACKET, hex, kind},
};
use serde_json::json;

use super::stage::{World, comes_through, hears_nothing, is_closed, is_ours, packet, says};

/// What a discovery message begins with: somebody waits for an answer.
const DISCO: &[u8] = "TS💬".as_bytes();

/// A discovery message as far as a server looks at it: magic, key, nonce, box.
fn disco() -> Vec<u8> {
    [DISCO, &[7; 32 + 24 + 40]].concat()
}

#[tokio::test]
async fn packets_reach_the_key_they_are_for() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({})).await?;
    let mut ann = server.client().await?;
    let fast = Hello { fast: true, ..Hello::default() };
    let mut bob = server.login_as(&Keys::generate()?, &fast).await?;
    ensure!(ann.info["version"] == 2, "{}", ann.info);
    ensure!(ann.server == bob.server, "two keys of one server");
    let secret = Keys::from_secret(server.secret()?);
    ensure!(ann.server == secret.public, "{} is not the key in the file", hex(&ann.server));
    if is_ours("mode of the key file") {
        let mode = std::fs::metadata(server.running.dir().join("derp.key"))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "the key file has mode {mode:o}");
    }

    for length in [1, 0, 1280, 9000, MAX_PACKET] {
        let text = Pattern::new(length as u64).take(length);
        says(&mut ann, &mut bob, &text).await.with_context(|| format!("{length} bytes"))?;
        says(&mut bob, &mut ann, &text).await.with_context(|| format!("{length} bytes back"))?;
    }
    // To oneself, too.
    let own = ann.key;
    ann.writer.send(&own, b"self").await?;
    ensure!(packet(&mut ann).await? == (own, b"self".to_vec()));

    ann.writer.frame(kind::PING, &[b"12345678"]).await?;
    let pong = ann.reader.expect(kind::PONG).await?;
    ensure!(pong.body == b"12345678", "{pong:?}");
    // What a server does not know it passes over.
    ann.writer.frame(0x7f, &[&[1; 5000]]).await?;
    ann.writer.frame(kind::NOTE_PREFERRED, &[&[1]]).await?;
    says(&mut ann, &mut bob, b"after that").await?;

    let mut carol = server.client().await?;
    // The server may close before everything is written.
    drop(carol.writer.send(&bob.key, &[0; MAX_PACKET + 1]).await);
    is_closed(&mut carol).await.context("a packet that is too long")?;
    hears_nothing(&mut bob, Duration::from_millis(300)).await
}

#[tokio::test]
async fn senders_learn_who_is_gone() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({})).await?;
    let mut ann = server.client().await?;
    let stranger = Keys::generate()?.public;
    ann.writer.send(&stranger, b"WireGuard").await?;
    hears_nothing(&mut ann, Duration::from_millis(500)).await?;
    ann.writer.send(&stranger, &disco()).await?;
    let gone = ann.reader.expect(kind::PEER_GONE).await?;
    ensure!(gone.body == [&stranger[..], &[1]].concat(), "{gone:?}");

    let mut bob = server.client().await?;
    let mut carol = server.client().await?;
    says(&mut bob, &mut ann, b"hello").await?;
    let left = bob.key;
    drop(bob);
    let gone = ann.reader.expect(kind::PEER_GONE).await?;
    ensure!(gone.body == [&left[..], &[0]].concat(), "{gone:?}");
    // Who never heard of it is told nothing.
    hears_nothing(&mut carol, Duration::from_millis(300)).await
}

/// Two connections with one key: the later one is the peer, and when it goes the earlier one is again.
#[tokio::test]
async fn a_key_that_comes_twice() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({})).await?;
    let mut ann = server.client().await?;
    let keys = Keys::generate()?;
    let mut first = server.login(&keys).await?;
    says(&mut ann, &mut first, b"to the only one").await?;
    let mut second = server.login(&keys).await?;
    says(&mut ann, &mut second, b"to the later one").await?;
    hears_nothing(&mut first, Duration::from_millis(300)).await?;
    // Who has sent last is the one that packets are for; a packet that is on its way just then may go to the other one.
    let soon = Duration::from_secs(2);
    says(&mut first, &mut ann, b"I am here").await?;
    comes_through(&mut ann, &mut first, soon).await.context("to the one that spoke")?;
    says(&mut ann, &mut first, b"and again").await?;
    says(&mut second, &mut ann, b"so am I").await?;
    comes_through(&mut ann, &mut second, soon).await.context("to the other one")?;
    drop(second);
    comes_through(&mut ann, &mut first, soon).await.context("to the one that is left").map(drop)
}
