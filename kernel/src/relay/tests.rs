use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    Kind,
    addr::Target,
    component::Incarnation,
    flow::{BoxStream, Prefixed, Stream},
    ledger::{Cut, Entry, Ledger},
    session::{Network, Session},
};

const SHORT: Duration = Duration::from_secs(60);

pub(super) fn session() -> Box<Session> {
    let life = Incarnation { kind: Kind::Inbound, type_name: "test", tag: "t".into(), epoch: 1 };
    let source: SocketAddr = ([127, 0, 0, 1], 9).into();
    Session::new(1, Arc::new(life), Network::Tcp, source, Target::from(source))
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

/// A relay that runs: the two outer ends, its ledger, and how it ended with its counters.
struct Rig<C, S> {
    client: C,
    server: S,
    entry: Arc<Entry>,
    end: JoinHandle<(End, u64, u64)>,
}

fn start(client: BoxStream, server: BoxStream) -> (Arc<Entry>, JoinHandle<(End, u64, u64)>) {
    let ledger = Ledger::default();
    let registered = ledger.register(&session());
    let entry = ledger.list()[0].clone();
    let end = tokio::spawn(async move {
        let end = streams(client, server, &registered).await;
        let (up, down) = (&registered.up, &registered.down);
        (end, up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    });
    (entry, end)
}

async fn tcp_rig() -> Rig<TcpStream, TcpStream> {
    let (client, inner_client) = tcp_pair().await;
    let (inner_server, server) = tcp_pair().await;
    let (entry, end) = start(Box::new(inner_client), Box::new(inner_server));
    Rig { client, server, entry, end }
}

fn duplex_rig(size: usize) -> Rig<DuplexStream, DuplexStream> {
    let (client, inner_client) = tokio::io::duplex(size);
    let (inner_server, server) = tokio::io::duplex(size);
    let (entry, end) = start(Box::new(inner_client), Box::new(inner_server));
    Rig { client, server, entry, end }
}

/// A small deterministic generator, so that a failure can be repeated.
struct Rng(u64);

impl Rng {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below
    }
}

/// The byte at `offset` of stream `seed`.
fn pattern(seed: u64, offset: usize) -> u8 {
    let x = (offset as u64 ^ seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

/// Writes `total` pattern bytes in pieces of random sizes, some large, some tiny, some late.
async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, seed: u64, total: usize, finish: bool) {
    let mut rng = Rng(seed);
    let mut offset = 0;
    while offset < total {
        let n = match rng.next(8) {
            0 => 1 + rng.next(64),
            1..5 => 1 + rng.next(20_000),
            _ => 1 + rng.next(400_000),
        };
        let n = n.min(total - offset);
        let piece: Vec<u8> = (offset..offset + n).map(|i| pattern(seed, i)).collect();
        to.write_all(&piece).await.unwrap();
        offset += n;
        if rng.next(10) == 0 {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
    if finish {
        to.shutdown().await.unwrap();
    }
}

/// Reads to the end and checks every byte.
async fn receive(mut from: impl tokio::io::AsyncRead + Unpin, seed: u64, total: usize, slow: bool) {
    let mut rng = Rng(seed ^ 1);
    let mut buffer = vec![0; 300_000];
    let mut offset = 0;
    loop {
        let want = 1 + rng.next(buffer.len());
        let n = from.read(&mut buffer[..want]).await.unwrap();
        if n == 0 {
            break;
        }
        for (i, byte) in buffer[..n].iter().enumerate() {
            assert_eq!(*byte, pattern(seed, offset + i), "byte {}", offset + i);
        }
        offset += n;
        if slow && rng.next(3) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(offset, total);
}

async fn both_ways<C, S>(rig: Rig<C, S>, total: usize, slow: bool)
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let (cr, cw) = tokio::io::split(rig.client);
    let (sr, sw) = tokio::io::split(rig.server);
    let tasks = [
        tokio::spawn(send(cw, 1, total, true)),
        tokio::spawn(send(sw, 2, total / 2, true)),
        tokio::spawn(receive(sr, 1, total, slow)),
        tokio::spawn(receive(cr, 2, total / 2, slow)),
    ];
    for task in tasks {
        timeout(SHORT, task).await.unwrap().unwrap();
    }
    let (end, up, down) = timeout(SHORT, rig.end).await.unwrap().unwrap();
    assert!(matches!(end, End::Closed), "{end}");
    assert_eq!((up, down), (total as u64, total as u64 / 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_bulk_is_spliced_and_intact() {
    let before = stats().spliced_bytes;
    both_ways(tcp_rig().await, 24 << 20, false).await;
    let spliced = stats().spliced_bytes - before;
    assert!(spliced > 12 << 20, "{spliced} bytes spliced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_lose_nothing() {
    both_ways(tcp_rig().await, 8 << 20, true).await;
    both_ways(duplex_rig(10_000), 2 << 20, true).await;
}

#[tokio::test]
async fn streams_without_a_socket_are_copied_intact() {
    for size in [1, 700, 8 * 1024, 64 * 1024, 1 << 20] {
        both_ways(duplex_rig(size), if size == 1 { 10_000 } else { 4 << 20 }, false).await;
    }
}

/// A socket that comes to light in one direction only.
struct OneWay {
    inner: TcpStream,
    source: bool,
}

impl tokio::io::AsyncRead for OneWay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for OneWay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Stream for OneWay {
    fn raw_source(&mut self) -> Option<&mut TcpStream> {
        self.source.then_some(&mut self.inner)
    }

    fn raw_sink(&mut self) -> Option<&mut TcpStream> {
        (!self.source).then_some(&mut self.inner)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_direction_is_spliced_while_the_other_is_copied() {
    for source in [true, false] {
        let (client, inner_client) = tcp_pair().await;
        let (inner_server, server) = tcp_pair().await;
        let near = OneWay { inner: inner_client, source };
        let (entry, end) = start(Box::new(near), Box::new(inner_server));
        both_ways(Rig { client, server, entry: entry.clone(), end }, 16 << 20, false).await;
        let (up, spliced) = (16 << 20, entry.spliced.load(Ordering::Relaxed));
        let bound = if source { up } else { up / 2 };
        assert!((bound / 2..=bound).contains(&spliced), "{spliced} bytes spliced");
    }
}

#[tokio::test]
async fn a_half_closed_direction_leaves_the_other_open() {
    for client_first in [true, false] {
        let Rig { client, server, entry: _, end } = tcp_rig().await;
        let (mut first, mut second) =
            if client_first { (client, server) } else { (server, client) };
        first.write_all(b"request").await.unwrap();
        first.shutdown().await.unwrap();
        let mut got = Vec::new();
        timeout(SHORT, second.read_to_end(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, b"request");
        // The other direction carries bulk after the first one has ended.
        let sender = tokio::spawn(async move { send(second, 7, 3 << 20, true).await });
        timeout(SHORT, receive(first, 7, 3 << 20, false)).await.unwrap();
        sender.await.unwrap();
        let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
        assert_eq!(end.to_string(), "closed");
    }
}

#[tokio::test]
async fn back_pressure_reaches_the_sender() {
    let Rig { mut client, server, entry, end: _end } = tcp_rig().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        let piece = vec![0; 1 << 20];
        let mut sent = 0usize;
        loop {
            tokio::select! {
                n = client.write(&piece) => sent += n.unwrap(),
                _ = &mut stopped => return (client, sent),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.send(()).unwrap();
    let (client, sent) = writer.await.unwrap();
    // Four socket buffers of up to 6 MB and one pipe.
    assert!(sent < 64 << 20, "{sent} bytes were taken for a reader that reads nothing");
    assert!(entry.is_cut().is_none());
    drop(client);
    let mut server = server;
    let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        let n = timeout(SHORT, server.read(&mut buffer)).await.unwrap().unwrap();
        if n == 0 {
            break;
        }
        got += n;
    }
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_reset_ends_both_sides() {
    for client_resets in [true, false] {
        let Rig { mut client, mut server, entry: _, end } = tcp_rig().await;
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        let (goner, mut other) = if client_resets { (client, server) } else { (server, client) };
        goner.set_zero_linger().unwrap();
        drop(goner);
        let mut byte = [0];
        // The other end sees the connection go, as an end or as a reset.
        let seen = timeout(SHORT, other.read(&mut byte)).await.unwrap();
        assert!(matches!(seen, Ok(0) | Err(_)));
        let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
        assert_eq!(end.to_string(), if client_resets { "client reset" } else { "server reset" });
    }
}

#[tokio::test]
async fn an_answer_arrives_although_the_server_reset_the_request() {
    for _ in 0..20 {
        let Rig { mut client, mut server, entry: _, end } = tcp_rig().await;
        let (mut cr, mut cw) = client.split();
        let writing = async {
            // More than the server will read: it closes with bytes unread, which resets.
            let _ = cw.write_all(&vec![1; 3 << 20]).await;
        };
        let serving = async {
            server.read_u8().await.unwrap();
            server.write_all(&vec![2; 20_000]).await.unwrap();
            drop(server);
        };
        let reading = async {
            let mut got = Vec::new();
            let _ = cr.read_to_end(&mut got).await;
            got.len()
        };
        let (_, _, got) =
            timeout(SHORT, async { tokio::join!(writing, serving, reading) }).await.unwrap();
        assert_eq!(got, 20_000);
        let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
        assert!(matches!(end, End::Failed(..)), "{end}");
    }
}

#[tokio::test]
async fn a_cut_ends_an_idle_and_a_stalled_connection() {
    for stalled in [false, true] {
        let Rig { mut client, server, entry, end } = tcp_rig().await;
        if stalled {
            let piece = vec![0; 1 << 20];
            while timeout(Duration::from_millis(100), client.write(&piece)).await.is_ok() {}
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        entry.cut(Cut::Operator);
        let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
        assert_eq!(end.to_string(), "closed by operator");
        drop(server);
    }
}

#[tokio::test]
async fn a_drained_prefix_lets_the_socket_through() {
    let (client, inner_client) = tcp_pair().await;
    let (inner_server, server) = tcp_pair().await;
    let prefix: Vec<u8> = (0..5000).map(|i| pattern(3, i)).collect();
    let before = stats().spliced_bytes;
    let (_entry, end) = start(
        Box::new(Prefixed::new(prefix.into(), Box::new(inner_client))),
        Box::new(inner_server),
    );
    let total = 12 << 20;
    let sender = tokio::spawn(async move {
        let mut client = client;
        let mut offset = 5000;
        while offset < total {
            let n = (total - offset).min(1 << 18);
            let piece: Vec<u8> = (offset..offset + n).map(|i| pattern(3, i)).collect();
            client.write_all(&piece).await.unwrap();
            offset += n;
        }
        client.shutdown().await.unwrap();
        client
    });
    let (mut sr, mut sw) = tokio::io::split(server);
    timeout(SHORT, receive(&mut sr, 3, total, false)).await.unwrap();
    let _client = sender.await.unwrap();
    assert!(stats().spliced_bytes - before > total as u64 / 3);
    sw.shutdown().await.unwrap();
    let (end, up, _) = timeout(SHORT, end).await.unwrap().unwrap();
    assert_eq!((end.to_string().as_str(), up), ("closed", total as u64));
}

#[test]
fn an_idle_relay_is_small() {
    let ledger = Ledger::default();
    let entry = ledger.register(&session());
    let (a, b) = tokio::io::duplex(1);
    let size = std::mem::size_of_val(&streams(Box::new(a), Box::new(b), &entry));
    assert!(size <= 320, "{size} bytes");
}

#[test]
fn timeouts_follow_rule_protocol_and_port() {
    let (none, seconds) = (UdpPolicy::default(), Duration::from_secs);
    assert_eq!(udp_timeout(none, None, 53), seconds(10));
    assert_eq!(udp_timeout(none, None, 443), seconds(30));
    assert_eq!(udp_timeout(none, Some("dtls"), 53), seconds(30));
    // A sniffed protocol without a timeout of its own hides the port.
    assert_eq!(udp_timeout(none, Some("bittorrent"), 53), seconds(300));
    assert_eq!(udp_timeout(none, None, 9), seconds(300));
    let rule = UdpPolicy { timeout: Some(seconds(7)), ..none };
    assert_eq!(udp_timeout(rule, Some("quic"), 443), seconds(7));
}
