use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};

use super::{tests::session, *};
use crate::{
    addr::Target,
    flow::{BATCH, Batch, BoxPacketIo, PacketIo},
    ledger::{Cut, Entry, Ledger},
    net::udp::UdpPackets,
};

const SHORT: Duration = Duration::from_secs(30);

type End3 = (End, u64, u64);

fn start(
    client: BoxPacketIo,
    server: BoxPacketIo,
    idle: Duration,
) -> (Arc<Entry>, JoinHandle<End3>) {
    let ledger = Ledger::default();
    let registered = ledger.register(&session());
    let entry = ledger.list()[0].clone();
    let end = tokio::spawn(async move {
        let end = packets(client, server, &registered, idle).await;
        let (up, down) = (&registered.up, &registered.down);
        (end, up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    });
    (entry, end)
}

/// Two outer sockets with a relay between connected ones.
async fn udp_rig(idle: Duration) -> (UdpSocket, UdpSocket, Arc<Entry>, JoinHandle<End3>) {
    async fn side() -> (UdpSocket, BoxPacketIo) {
        let (outer, inner) = (
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        );
        outer.connect(inner.local_addr().unwrap()).await.unwrap();
        inner.connect(outer.local_addr().unwrap()).await.unwrap();
        (outer, Box::new(UdpPackets::connected(inner, None).unwrap()))
    }
    let ((client, near), (server, far)) = (side().await, side().await);
    let (entry, end) = start(near, far, idle);
    (client, server, entry, end)
}

async fn pass(from: &UdpSocket, to: &UdpSocket, size: usize) {
    let sent: Vec<u8> = (0..size).map(|i| (i * 7 + size) as u8).collect();
    from.send(&sent).await.unwrap();
    let mut buffer = vec![0; 70_000];
    let n = timeout(SHORT, to.recv(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..n] == sent, "size {size}");
}

#[tokio::test]
async fn datagrams_of_every_size_pass_and_count() {
    let (client, server, entry, end) = udp_rig(SHORT).await;
    let sizes = [0, 1, 64, 1200, 1500, 20_000, 65_507];
    for size in sizes {
        pass(&client, &server, size).await;
        pass(&server, &client, size).await;
    }
    // A burst arrives whole and in order.
    for i in 0..50u8 {
        client.send(&[i; 900]).await.unwrap();
    }
    for i in 0..50u8 {
        let mut buffer = [0; 1000];
        assert_eq!(timeout(SHORT, server.recv(&mut buffer)).await.unwrap().unwrap(), 900);
        assert_eq!(buffer[0], i);
    }
    entry.cut(Cut::Shutdown);
    let (end, up, down) = timeout(SHORT, end).await.unwrap().unwrap();
    let total = sizes.iter().sum::<usize>() as u64;
    assert_eq!((end.to_string().as_str(), up, down), ("shutting down", total + 45_000, total));
}

#[tokio::test]
async fn silence_ends_an_association_and_traffic_keeps_it() {
    let (client, server, _entry, end) = udp_rig(Duration::from_millis(300)).await;
    let begun = std::time::Instant::now();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pass(&server, &client, 10).await;
    }
    assert!(!end.is_finished());
    let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
    assert_eq!(end.to_string(), "idle for 300ms");
    assert!(begun.elapsed() >= Duration::from_millis(900));
}

/// A side that a test drives: what comes in, what was sent, and whether it takes anything.
#[derive(Default)]
struct State {
    incoming: VecDeque<u8>,
    fail: Option<io::ErrorKind>,
    sent: Vec<u8>,
    stuck: bool,
    wakers: Vec<Waker>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        f(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }
}

impl PacketIo for Fake {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        let mut added = 0;
        while !batch.is_full() {
            let Some(byte) = state.incoming.pop_front() else { break };
            batch.push(&[byte], Target::unspecified());
            added += 1;
        }
        match state.fail {
            _ if added > 0 => Poll::Ready(Ok(added)),
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => {
                state.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        // Takes one even when it is stuck afterwards: the rest must not be lost or repeated.
        while !batch.is_empty() {
            if state.stuck && state.sent.len() % 2 == 1 {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            state.sent.push(batch.payload(0)[0]);
            batch.drain_front(1);
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_full_sink_holds_what_was_received_and_stops_receiving() {
    let (client, server) = (Fake::default(), Fake::default());
    let (_entry, end) = start(Box::new(client.clone()), Box::new(server.clone()), SHORT);
    server.change(|state| state.stuck = true);
    client.change(|state| state.incoming.extend(0..200));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(client.0.lock().incoming.len(), 200 - BATCH);
    // The other direction does not suffer.
    server.change(|state| state.incoming.push_back(9));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(client.0.lock().sent, [9]);
    server.change(|state| state.stuck = false);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(server.0.lock().sent, (0..200).collect::<Vec<u8>>());
    client.change(|state| state.fail = Some(io::ErrorKind::UnexpectedEof));
    let (end, up, down) = timeout(SHORT, end).await.unwrap().unwrap();
    assert_eq!((end.to_string().as_str(), up, down), ("closed", 200, 1));
}

#[tokio::test]
async fn a_failure_names_its_side() {
    for server_fails in [true, false] {
        let (client, server) = (Fake::default(), Fake::default());
        let (_entry, end) = start(Box::new(client.clone()), Box::new(server.clone()), SHORT);
        let side = if server_fails { &server } else { &client };
        side.change(|state| state.fail = Some(io::ErrorKind::ConnectionReset));
        let (end, ..) = timeout(SHORT, end).await.unwrap().unwrap();
        assert_eq!(end.to_string(), if server_fails { "server reset" } else { "client reset" });
    }
}

#[tokio::test]
async fn endless_packets_leave_room_for_other_tasks() {
    /// Always has a packet.
    struct Spring;
    impl PacketIo for Spring {
        fn poll_recv(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
            let before = batch.len();
            while batch.push(b"x", Target::unspecified()) {}
            Poll::Ready(Ok(batch.len() - before))
        }
        fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
            batch.clear();
            Poll::Ready(Ok(()))
        }
    }
    let (entry, end) = start(Box::new(Spring), Box::new(Spring), SHORT);
    tokio::time::sleep(Duration::from_millis(20)).await;
    entry.cut(Cut::Operator);
    let (_, up, down) = timeout(SHORT, end).await.unwrap().unwrap();
    assert!(up > 1000 && down > 1000);
}

#[test]
fn an_idle_association_is_small() {
    let ledger = Ledger::default();
    let entry = ledger.register(&session());
    let future = packets(Box::new(Fake::default()), Box::new(Fake::default()), &entry, SHORT);
    let size = size_of_val(&future);
    assert!(size <= 512, "{size} bytes");
}
