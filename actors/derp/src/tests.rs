//! Servers, clients and links on streams in memory.

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::flow::BoxStream;
use crosspoint_layers::input::Input;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use crate::{
    client::{Client, ClientError},
    connection::End,
    frame::{self, FromClient, FromServer, Gone, MAX_PACKET, kind},
    handshake,
    hub::{Hub, Origin, Settings},
    info::{ClientInfo, VERSION},
    key::{Key, MeshKey, PrivateKey},
    limit::Rate,
    mesh::Link,
    table::Route,
};

const WAIT: Duration = Duration::from_secs(5);

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

fn mesh_key() -> MeshKey {
    MeshKey::parse(&"5a".repeat(32)).unwrap()
}

fn region() -> Arc<Hub> {
    Hub::new(key(), Settings { mesh_key: Some(mesh_key()), rate: None })
}

fn info(mesh_key: Option<MeshKey>) -> ClientInfo {
    ClientInfo { mesh_key, version: VERSION, can_ack_pings: true, prober: false }
}

/// Serves the other end of a stream; returns our end, and how the connection ends.
fn served(hub: &Arc<Hub>, buffer: usize) -> (BoxStream, tokio::task::JoinHandle<Option<End>>) {
    let (mut stream, ours): (BoxStream, BoxStream) = {
        let (one, two) = tokio::io::duplex(buffer);
        (Box::new(one), Box::new(two))
    };
    let hub = hub.clone();
    let task = tokio::spawn(async move {
        let mut input = Input::default();
        let newcomer = handshake::accept(&mut stream, &mut input, hub.private()).await.ok()?;
        let origin = Origin { addr: ([10, 0, 0, 1], 7).into(), not_ideal: false };
        Some(hub.serve(stream, input, newcomer, origin, None).await)
    });
    (ours, task)
}

/// A client that was welcomed, so that packets find it.
async fn join(hub: &Arc<Hub>, own: &PrivateKey, mesh: Option<MeshKey>) -> Client {
    let (stream, _) = served(hub, 1 << 20);
    let mut client = Client::new(stream, Input::default(), own, &info(mesh), None).await.unwrap();
    let FromServer::Info(sealed) = heard(&mut client).await else { panic!("no welcome") };
    let sealed = sealed.to_vec();
    assert_eq!(client.info(&sealed).unwrap().version, VERSION);
    client
}

async fn heard(client: &mut Client) -> FromServer<'_> {
    timeout(WAIT, client.next()).await.unwrap().unwrap()
}

/// Waits until `done`, while nothing is to be received.
async fn until(done: impl Fn() -> bool) {
    let work = async {
        while !done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT, work).await.unwrap();
}

/// Lets a client send what it has, and nothing else.
async fn flush(client: &mut Client) {
    assert!(timeout(Duration::from_millis(50), client.next()).await.is_err());
}

fn disco() -> Vec<u8> {
    [b"TS\xf0\x9f\x92\xac".as_slice(), &[0; 60]].concat()
}

#[tokio::test]
async fn packets_find_their_way() {
    let hub = region();
    let (a, b) = (key(), key());
    let (mut at_a, mut at_b) = (join(&hub, &a, None).await, join(&hub, &b, None).await);
    at_a.send(&b.public(), b"hello").unwrap();
    at_a.send(&b.public(), &[7; MAX_PACKET]).unwrap();
    assert!(at_a.send(&b.public(), &[7; MAX_PACKET + 1]).is_err());
    flush(&mut at_a).await;
    let from = a.public();
    assert_eq!(heard(&mut at_b).await, FromServer::Receive { from, packet: b"hello" });
    assert_eq!(heard(&mut at_b).await, FromServer::Receive { from, packet: &[7; MAX_PACKET] });
    at_b.say(FromClient::Ping(*b"12345678"));
    at_b.say(FromClient::NotePreferred(true));
    assert_eq!(heard(&mut at_b).await, FromServer::Pong(*b"12345678"));

    // Who has sent something and leaves is gone.
    drop(at_a);
    assert_eq!(heard(&mut at_b).await, FromServer::PeerGone(from, Gone::Disconnected));
    // Who looks for a way to it is told, a few times.
    for _ in 0..10 {
        at_b.send(&from, &disco()).unwrap();
        at_b.send(&from, b"no disco").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(heard(&mut at_b).await, FromServer::PeerGone(from, Gone::NotHere));
    }
    flush(&mut at_b).await;
    drop(at_b);
    until(|| hub.table().is_empty()).await;
}

#[tokio::test]
async fn the_newest_connection_or_the_one_that_speaks_is_served() {
    let hub = region();
    let (a, b) = (key(), key());
    let (mut old, mut new) = (join(&hub, &a, None).await, join(&hub, &a, None).await);
    let mut other = join(&hub, &b, None).await;
    other.send(&a.public(), b"1").unwrap();
    flush(&mut other).await;
    let from = b.public();
    assert_eq!(heard(&mut new).await, FromServer::Receive { from, packet: b"1" });
    old.send(&b.public(), b"I am here").unwrap();
    flush(&mut old).await;
    let hello = FromServer::Receive { from: a.public(), packet: b"I am here" };
    assert_eq!(heard(&mut other).await, hello);
    other.send(&a.public(), b"2").unwrap();
    flush(&mut other).await;
    assert_eq!(heard(&mut old).await, FromServer::Receive { from, packet: b"2" });
    drop(old);
    until(|| matches!(hub.table().get(&a.public()), Some(Route::Local(p)) if p.is_active())).await;
    sleep(Duration::from_millis(50)).await;
    other.send(&a.public(), b"3").unwrap();
    flush(&mut other).await;
    assert_eq!(heard(&mut new).await, FromServer::Receive { from, packet: b"3" });
}

#[tokio::test]
async fn only_servers_may_do_what_servers_do() {
    let hub = region();
    let other = MeshKey::parse(&"11".repeat(32)).unwrap();
    for mesh in [None, Some(other)] {
        for frame in [
            FromClient::Watch,
            FromClient::ClosePeer(Key([1; 32])),
            FromClient::Forward { from: Key([1; 32]), to: Key([2; 32]), packet: b"x" },
        ] {
            let mut client = join(&hub, &key(), mesh.clone()).await;
            client.say(frame);
            let end = timeout(WAIT, client.next()).await.unwrap();
            assert!(matches!(end, Err(ClientError::Closed)), "{frame:?}");
        }
    }
    // One that may.
    let victim = key();
    let mut client = join(&hub, &victim, None).await;
    let mut server = join(&hub, &key(), Some(mesh_key())).await;
    server.say(FromClient::ClosePeer(victim.public()));
    flush(&mut server).await;
    assert!(timeout(WAIT, client.next()).await.unwrap().is_err());
    // Another key of the region: it must come again.
    hub.configure(Settings::default());
    assert!(timeout(WAIT, server.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_one_connection() {
    let hub = region();
    let mut peaceful = join(&hub, &key(), None).await;
    for bytes in [
        frame::head(kind::SEND, 31).to_vec(),
        frame::head(kind::SEND, 33 + MAX_PACKET).to_vec(),
        frame::head(kind::NOTE_PREFERRED, 9).to_vec(),
        frame::head(kind::PING, 4000).to_vec(),
    ] {
        let (stream, task) = served(&hub, 1 << 16);
        let (mut read, mut write) = tokio::io::split(stream);
        let own = key();
        // A handshake by hand, to have the stream.
        let mut greeting = [0; 5 + 8 + 32];
        read.read_exact(&mut greeting).await.unwrap();
        let server = Key::read(&greeting[13..]).unwrap();
        let sealed = crate::naclbox::Sealer::new(&own, &server).unwrap().seal(b"{}").unwrap();
        let mut out = Vec::new();
        frame::emit(&mut out, kind::CLIENT_INFO, &[&own.public().0, &sealed]);
        // Frames of another time are passed over.
        frame::emit(&mut out, 0x66, &[&[0; 5000]]);
        out.extend(bytes);
        write.write_all(&out).await.unwrap();
        assert!(matches!(timeout(WAIT, task).await.unwrap().unwrap(), Some(End::Frame(_))));
    }
    flush(&mut peaceful).await;
}

/// A client that takes nothing loses what is for it; who sends to it, and all others, go on.
#[tokio::test(start_paused = true)]
async fn a_slow_client_costs_nobody_else() {
    let hub = region();
    let (slow, quick, sender) = (key(), key(), key());
    let (stream, task) = served(&hub, 4096);
    let at_slow = Client::new(stream, Input::default(), &slow, &info(None), None).await.unwrap();
    until(|| hub.table().get(&slow.public()).is_some()).await;
    let mut at_quick = join(&hub, &quick, None).await;
    let mut at_sender = join(&hub, &sender, None).await;
    for round in 0..100u8 {
        for _ in 0..4 {
            at_sender.send(&slow.public(), &[round; 16_000]).unwrap();
        }
        at_sender.send(&quick.public(), &[round; 1000]).unwrap();
        flush(&mut at_sender).await;
        let frame = heard(&mut at_quick).await;
        assert_eq!(frame, FromServer::Receive { from: sender.public(), packet: &[round; 1000] });
    }
    let Some(Route::Local(peer)) = hub.table().get(&slow.public()) else { panic!() };
    // 400 packets of 16 kB, 256 KiB in the queue, and as much on its way.
    assert!((340..390).contains(&peer.mailbox.dropped()), "{}", peer.mailbox.dropped());
    // It is not waited for for ever.
    assert!(matches!(task.await.unwrap(), Some(End::Stalled)));
    drop(at_slow);
}

#[tokio::test(start_paused = true)]
async fn a_server_shows_that_it_is_there_and_a_silent_one_is_left() {
    let hub = region();
    let mut client = join(&hub, &key(), None).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(client.next().await.unwrap(), FromServer::KeepAlive);
    }
    let passed = begin.elapsed();
    assert!(passed >= Duration::from_secs(180) && passed < Duration::from_secs(186), "{passed:?}");

    let (mut other_end, stream) = tokio::io::duplex(1 << 16);
    let server = key();
    let greeting = handshake::greeting(&server.public());
    other_end.write_all(&greeting).await.unwrap();
    let stream: BoxStream = Box::new(stream);
    let client = Client::new(stream, Input::default(), &key(), &info(None), None).await;
    let end = client.unwrap().next().await.map(drop);
    assert!(matches!(end, Err(ClientError::Silent)));
}

#[tokio::test(start_paused = true)]
async fn who_sends_too_much_is_read_more_slowly() {
    let hub = Hub::new(key(), Settings { mesh_key: None, rate: Some(Rate::new(100_000, 0)) });
    let (a, b) = (key(), key());
    let (mut at_a, mut at_b) = (join(&hub, &a, None).await, join(&hub, &b, None).await);
    let begin = tokio::time::Instant::now();
    for _ in 0..200 {
        at_a.send(&b.public(), &[1; 1000]).unwrap();
    }
    tokio::spawn(async move { while at_a.next().await.is_ok() {} });
    for _ in 0..200 {
        assert!(matches!(heard(&mut at_b).await, FromServer::Receive { .. }));
    }
    // 200 kB less the burst of 64 KiB.
    let passed = begin.elapsed().as_secs_f64();
    assert!((1.3..1.6).contains(&passed), "{passed}");
    hub.configure(Settings::default());
    assert!(hub.settings().rate.is_none());
}

/// A link that ends at that server, over a stream in memory, as long as `hub` says that there is one.
fn link(to: impl Fn() -> Option<Arc<Hub>> + Send + Sync + 'static) -> Link {
    let open = move || -> crosspoint_kernel::BoxFuture<'static, Result<BoxStream, _>> {
        let hub = to();
        Box::pin(async move {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            let hub = hub.ok_or(refused)?;
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(async move {
                // What the front does: the request is answered, then the streams are joined.
                let mut held = Vec::new();
                while !held.ends_with(b"\r\n\r\n") {
                    held.push(ours.read_u8().await.unwrap());
                }
                assert!(held.starts_with(b"GET /derp HTTP/1.1\r\nHost: other\r\n"));
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n";
                ours.write_all(answer).await.unwrap();
                let mut stream: BoxStream = Box::new(ours);
                let mut input = Input::default();
                let newcomer = handshake::accept(&mut stream, &mut input, hub.private()).await;
                let origin = Origin { addr: ([10, 0, 0, 9], 7).into(), not_ideal: false };
                hub.serve(stream, input, newcomer.unwrap(), origin, None).await
            });
            Ok(Box::new(theirs) as BoxStream)
        })
    };
    Link { host: "other".into(), open: Box::new(open) }
}

#[tokio::test(start_paused = true)]
async fn servers_of_a_region_reach_each_others_clients() {
    let (one, two) = (region(), region());
    let (a, b) = (key(), key());
    let mut at_a = join(&one, &a, None).await;
    let target = two.clone();
    let first = tokio::spawn(link(move || Some(target.clone())).run(one.clone(), "one"));
    let target = one.clone();
    tokio::spawn(link(move || Some(target.clone())).run(two.clone(), "two"));
    let mut at_b = join(&two, &b, None).await;
    let sees = |hub: &Arc<Hub>, key: &PrivateKey| {
        matches!(hub.table().get(&key.public()), Some(Route::Via(_)))
    };
    until(|| sees(&one, &b) && sees(&two, &a)).await;
    at_a.send(&b.public(), b"over there").unwrap();
    flush(&mut at_a).await;
    let from = a.public();
    assert_eq!(heard(&mut at_b).await, FromServer::Receive { from, packet: b"over there" });
    at_b.send(&a.public(), b"and back").unwrap();
    flush(&mut at_b).await;
    let back = FromServer::Receive { from: b.public(), packet: b"and back" };
    assert_eq!(heard(&mut at_a).await, back);

    // Who leaves the region is gone for those at other servers, too.
    drop(at_b);
    until(|| one.table().get(&b.public()).is_none()).await;
    assert_eq!(heard(&mut at_a).await, FromServer::PeerGone(b.public(), Gone::Disconnected));

    // The server dies and comes back; the link does, too.
    let mut at_b = join(&two, &b, None).await;
    until(|| sees(&one, &b)).await;
    two.end();
    assert!(timeout(WAIT, at_b.next()).await.unwrap().is_err());
    until(|| one.table().get(&b.public()).is_none()).await;
    let _at_b = join(&two, &b, None).await;
    timeout(Duration::from_secs(30), async {
        while !sees(&one, &b) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    until(|| one.table().get(&b.public()).is_none()).await;

    // A server that is told to mesh with itself leaves it.
    let target = one.clone();
    timeout(WAIT, link(move || Some(target.clone())).run(one.clone(), "one")).await.unwrap();
}
