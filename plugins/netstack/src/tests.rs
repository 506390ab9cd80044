//! Two stacks on one wire, and a stack against hostile packets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crosspoint_kernel::flow::{Batch, PacketIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use crate::{
    Association, Handler, Link, Netstack, Packets, Screen, Settings, TcpStream, Transport,
};

/// A wire to another stack: a queue, and loss if wanted.
struct Wire {
    to: mpsc::UnboundedSender<Vec<Vec<u8>>>,
    lose: Option<u64>,
    count: std::sync::atomic::AtomicU64,
}

impl Link for Wire {
    fn send(&self, packets: &Packets) {
        let lost = |_: &&[u8]| {
            let count = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.lose.is_none_or(|each| count % each != each - 1)
        };
        let _ = self.to.send(packets.iter().filter(lost).map(<[u8]>::to_vec).collect());
    }
}

/// Hands out what comes.
struct Taker {
    streams: mpsc::UnboundedSender<(SocketAddr, SocketAddr, TcpStream)>,
    packets: mpsc::UnboundedSender<(SocketAddr, SocketAddr, Association)>,
}

impl Handler for Taker {
    fn screen(&self, _: Transport, _: SocketAddr, target: SocketAddr) -> Screen {
        match target.port() {
            7 => Screen::Reset,
            9 => Screen::Drop,
            _ => Screen::Accept,
        }
    }

    fn stream(&self, source: SocketAddr, target: SocketAddr, stream: TcpStream) {
        let _ = self.streams.send((source, target, stream));
    }

    fn packets(&self, source: SocketAddr, target: SocketAddr, packets: Association) {
        let _ = self.packets.send((source, target, packets));
    }
}

struct Side {
    stack: Arc<Netstack>,
    streams: mpsc::UnboundedReceiver<(SocketAddr, SocketAddr, TcpStream)>,
    packets: mpsc::UnboundedReceiver<(SocketAddr, SocketAddr, Association)>,
}

fn pair(lose: Option<u64>) -> (Side, Side) {
    let (to_b, mut at_b) = mpsc::unbounded_channel::<Vec<Vec<u8>>>();
    let (to_a, mut at_a) = mpsc::unbounded_channel::<Vec<Vec<u8>>>();
    let side = |to, own: [u8; 4], own6: u16| {
        let (streams, got) = mpsc::unbounded_channel();
        let (packets, got_packets) = mpsc::unbounded_channel();
        let addresses =
            vec![own.into(), std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, own6).into()];
        let link = Arc::new(Wire { to, lose, count: 0.into() });
        let handler = Arc::new(Taker { streams, packets });
        let stack = Arc::new(Netstack::new(Settings { addresses, mtu: 1408 }, link, handler));
        let timers = stack.clone();
        tokio::spawn(async move { timers.run().await });
        Side { stack, streams: got, packets: got_packets }
    };
    let (a, b) = (side(to_b, [10, 0, 0, 1], 1), side(to_a, [10, 0, 0, 2], 2));
    let (stack_a, stack_b) = (a.stack.clone(), b.stack.clone());
    tokio::spawn(async move {
        while let Some(packets) = at_a.recv().await {
            stack_a.input(packets.iter().map(Vec::as_slice));
        }
    });
    tokio::spawn(async move {
        while let Some(packets) = at_b.recv().await {
            stack_b.input(packets.iter().map(Vec::as_slice));
        }
    });
    (a, b)
}

fn far(v6: bool, port: u16) -> SocketAddr {
    let ip = if v6 { "fd00::99" } else { "192.0.2.1" };
    SocketAddr::new(ip.parse().expect("an address"), port)
}

async fn carries(lose: Option<u64>, v6: bool, len: usize) {
    let (a, mut b) = pair(lose);
    let connect = a.stack.connect(far(v6, 80));
    let (client, server) = tokio::join!(connect, b.streams.recv());
    let (mut client, (source, target, mut server)) = (client.expect("open"), server.expect("open"));
    assert_eq!(target, far(v6, 80));
    assert_eq!(
        source.port(),
        crosspoint_kernel::flow::Stream::local_addr(&client).map_or(0, |a| a.port())
    );
    let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
    let sent = bytes.clone();
    let up = async {
        client.write_all(&sent).await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.expect("read");
        assert_eq!(back.len(), 100_000);
    };
    let down = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("read");
        assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
        server.write_all(&[7; 100_000]).await.expect("written after the half close");
        server.shutdown().await.expect("closed");
    };
    let both = async { tokio::join!(up, down) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("in time");
    drop((client, server));
    // A last packet that was lost is sent again after a second.
    for _ in 0..1000 {
        if a.stack.tcp_flows() + b.stack.tcp_flows() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("flows stayed: {} {}", a.stack.tcp_flows(), b.stack.tcp_flows());
}

#[tokio::test]
async fn bytes_arrive_and_half_closes_are_kept() {
    carries(None, false, 5_000_000).await;
    carries(None, true, 300_000).await;
}

#[tokio::test]
async fn what_is_lost_is_sent_again() {
    carries(Some(50), false, 1_000_000).await;
}

#[tokio::test]
async fn a_refusal_is_told_and_silence_is_silence() {
    let (a, _b) = pair(None);
    let refused = a.stack.connect(far(false, 7)).await.map(drop).expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let silent = tokio::time::timeout(Duration::from_secs(2), a.stack.connect(far(false, 9))).await;
    assert!(silent.is_err());
    assert_eq!(a.stack.tcp_flows(), 0);
}

#[tokio::test]
async fn a_dropped_stream_resets_what_it_did_not_read() {
    let (a, mut b) = pair(None);
    let (client, server) = tokio::join!(a.stack.connect(far(false, 80)), b.streams.recv());
    let (mut client, (.., server)) = (client.expect("open"), server.expect("open"));
    client.write_all(b"hello").await.expect("written");
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(server);
    let error = client.read(&mut [0; 8]).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

async fn receive(packets: &mut Association) -> (Vec<u8>, SocketAddr) {
    let mut batch = Batch::new();
    let got = std::future::poll_fn(|cx| packets.poll_recv(cx, &mut batch));
    tokio::time::timeout(Duration::from_secs(5), got).await.expect("in time").expect("received");
    assert_eq!(batch.len(), 1);
    (batch.payload(0).to_vec(), batch.peer(0).socket_addr().expect("an address"))
}

async fn send(packets: &mut Association, payload: &[u8], to: SocketAddr) {
    let mut batch = Batch::new();
    assert!(batch.push(payload, to.into()));
    std::future::poll_fn(|cx| packets.poll_send(cx, &mut batch)).await.expect("sent");
}

#[tokio::test]
async fn datagrams_of_any_size_go_both_ways() {
    let (a, mut b) = pair(None);
    for (v6, len) in [(false, 1), (false, 1380), (false, 4096), (true, 65_507), (true, 0)] {
        let mut own = a.stack.associate(far(v6, 1).ip()).expect("bound");
        let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 253).unwrap_or(0)).collect();
        send(&mut own, &payload, far(v6, 53)).await;
        let (source, target, mut client) = b.packets.recv().await.expect("an association");
        assert_eq!(target, far(v6, 53));
        assert_eq!(receive(&mut client).await, (payload.clone(), far(v6, 53)));
        send(&mut client, &payload, far(v6, 53)).await;
        assert_eq!(receive(&mut own).await, (payload, far(v6, 53)));
        // Another destination of the same client belongs to the same association.
        send(&mut own, b"x", far(v6, 54)).await;
        assert_eq!(receive(&mut client).await, (b"x".to_vec(), far(v6, 54)));
        assert!(source.port() >= crate::FIRST_PORT);
    }
}

#[tokio::test]
async fn nonsense_harms_nobody() {
    let (a, mut b) = pair(None);
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut packet = [0_u8; 64];
        for byte in &mut packet {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = u8::try_from(seed >> 56).unwrap_or(0);
        }
        packet[0] = if seed & 1 == 0 { 0x45 } else { 0x60 };
        packet[2..4].copy_from_slice(&[0, 64]);
        packet[9] = [1, 6, 17, 58][usize::try_from(seed >> 8 & 3).unwrap_or(0)];
        b.stack.input([&packet[..]]);
    }
    let (client, server) = tokio::join!(a.stack.connect(far(false, 80)), async {
        loop {
            let (_, target, stream) = b.streams.recv().await.expect("a stream");
            if target == far(false, 80) {
                return stream;
            }
        }
    });
    let (mut client, mut server) = (client.expect("open"), server);
    client.write_all(b"hello").await.expect("written");
    let mut got = [0; 5];
    server.read_exact(&mut got).await.expect("read");
}
