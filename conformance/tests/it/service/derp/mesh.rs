//! Servers that are one region: clients of one reach clients of the other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::pattern::Pattern,
    peers::full_reference,
    ports,
    tailnet::derp::{Frame, Hello, Keys, MAX_PACKET, kind},
};
use serde_json::{Value, json};

use super::stage::{
    Derp, NAME, Server, World, comes_through, hears_nothing, is_closed, packet, says,
};

const MESH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// The options of a server whose neighbour is at `port`.
fn beside(world: &World, psk: &str, port: u16) -> Value {
    json!({
        "mesh_psk": psk,
        "mesh_with": [{
            "server": "127.0.0.1", "server_port": port,
            "tls": { "enabled": true, "server_name": NAME, "certificate_path": world.certs.file() },
        }],
    })
}

/// The first connection from one server to the other may fail, since one of them starts first.
const FIRST: Duration = Duration::from_secs(25);

#[tokio::test]
async fn clients_of_two_servers_reach_each_other() -> Result<()> {
    let world = World::new()?;
    let [left, right] = ports::many();
    let one = world.start_at(left, &beside(&world, MESH, right)).await?;
    let two = world.start_at(right, &beside(&world, MESH, left)).await?;
    exchange(&world, one, two).await
}

#[tokio::test]
async fn a_mesh_with_the_reference() -> Result<()> {
    let world = World::new()?;
    let [left, right] = ports::many();
    let config = world.config(right, &beside(&world, MESH, left));
    let theirs = match full_reference(&config) {
        Ok(launch) => launch,
        Err(error) => {
            loud::not_run("a mesh with the reference", &format!("{error:#}"));
            return Ok(());
        }
    };
    let one = world.start_at(left, &beside(&world, MESH, right)).await?;
    let two = world.beside(theirs.start().await?, right)?;
    exchange(&world, one, two).await
}

async fn exchange(world: &World, one: Server, two: Server) -> Result<()> {
    let (mut ann, mut bob) = (one.client().await?, two.client().await?);
    let logs = || format!("{}\n--\n{}", one.running.log_tail(), two.running.log_tail());
    comes_through(&mut ann, &mut bob, FIRST).await.with_context(logs).context("from one to two")?;
    comes_through(&mut bob, &mut ann, FIRST).await.with_context(logs).context("from two to one")?;
    for length in [0, 1200, MAX_PACKET] {
        let text = Pattern::new(length as u64).take(length);
        says(&mut ann, &mut bob, &text).await.with_context(|| format!("{length} bytes"))?;
        says(&mut bob, &mut ann, &text).await.with_context(|| format!("{length} bytes back"))?;
    }
    // Who comes later is found, and who leaves is gone.
    let mut carol = two.client().await?;
    comes_through(&mut ann, &mut carol, Duration::from_secs(5)).await.context("a later one")?;
    says(&mut carol, &mut ann, b"here").await?;
    let left = carol.key;
    drop(carol);
    let gone = ann.reader.expect(kind::PEER_GONE).await?;
    ensure!(gone.body == [&left[..], &[0]].concat(), "{gone:?}");

    // One who moves is found where it is now.
    let keys = Keys::generate()?;
    let mut dave = one.login(&keys).await?;
    comes_through(&mut bob, &mut dave, Duration::from_secs(5)).await?;
    let mut moved = two.login(&keys).await?;
    drop(dave);
    comes_through(&mut ann, &mut moved, Duration::from_secs(5)).await.context("who has moved")?;
    comes_through(&mut bob, &mut moved, Duration::from_secs(5)).await?;

    // A server that comes back is met again.
    let port = two.port;
    drop(two);
    let two = world.start_at(port, &beside(world, MESH, one.port)).await?;
    let mut bob = two.client().await?;
    comes_through(&mut ann, &mut bob, FIRST).await.context("after a restart of the other")?;
    comes_through(&mut bob, &mut ann, FIRST).await.context("back after it")?;
    Ok(())
}

#[tokio::test]
async fn another_key_makes_no_mesh() -> Result<()> {
    let world = World::new()?;
    let [left, right] = ports::many();
    let one = world.start_at(left, &beside(&world, MESH, right)).await?;
    let two = world.start_at(right, &beside(&world, OTHER, left)).await?;
    let (mut ann, mut bob) = (one.client().await?, two.client().await?);
    let (mut friend, mut other) = (one.client().await?, two.client().await?);
    for (from, to) in [(&mut ann, &mut bob), (&mut other, &mut friend)] {
        ensure!(
            comes_through(from, to, Duration::from_secs(4)).await.is_err(),
            "one server takes the other for a friend"
        );
    }
    says(&mut ann, &mut friend, b"at home").await?;
    says(&mut bob, &mut other, b"at home").await
}

/// What a server in the mesh may do, done by a client that knows the key.
#[tokio::test]
async fn who_knows_the_key_may_watch_forward_and_close() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({ "mesh_psk": MESH })).await?;
    let (mut ann, mut bob) = (server.client().await?, server.client().await?);
    let hello = Hello { mesh: Some(MESH.to_owned()), ..Hello::default() };
    let mut mesh = server.login_as(&Keys::generate()?, &hello).await?;
    mesh.writer.frame(kind::WATCH, &[]).await?;
    let mut present = Vec::new();
    for _ in 0..2 {
        present.push(present_key(&mesh.reader.expect(kind::PEER_PRESENT).await?)?);
    }
    present.retain(|key| *key != mesh.key);
    if present.len() < 2 {
        present.push(present_key(&mesh.reader.expect(kind::PEER_PRESENT).await?)?);
    }
    ensure!(present.contains(&ann.key) && present.contains(&bob.key), "{present:02x?}");
    let carol = server.client().await?;
    wait_for(&mut mesh, kind::PEER_PRESENT, &carol.key).await.context("who came")?;
    let left = carol.key;
    drop(carol);
    wait_for(&mut mesh, kind::PEER_GONE, &left).await.context("who left")?;

    let stranger = Keys::generate()?.public;
    mesh.writer.frame(kind::FORWARD, &[&stranger, &ann.key, b"from afar"]).await?;
    ensure!(packet(&mut ann).await? == (stranger, b"from afar".to_vec()));
    // What was forwarded is forwarded no further, and nobody is told of it.
    mesh.writer.frame(kind::FORWARD, &[&stranger, &Keys::generate()?.public, b"nowhere"]).await?;
    mesh.writer.frame(kind::CLOSE_PEER, &[&ann.key]).await?;
    is_closed(&mut ann).await?;
    hears_nothing(&mut bob, Duration::from_millis(200)).await
}

fn present_key(frame: &Frame) -> Result<[u8; 32]> {
    let (key, rest) = frame.keyed()?;
    ensure!(rest.len() >= 18, "{} bytes behind the key", rest.len());
    // ::ffff:127.0.0.1
    ensure!(rest[..16] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1], "{rest:02x?}");
    Ok(key)
}

async fn wait_for(mesh: &mut Derp, kind: u8, key: &[u8; 32]) -> Result<()> {
    while mesh.reader.expect(kind).await?.keyed()?.0 != *key {}
    Ok(())
}
