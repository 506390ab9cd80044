use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::UdpSocket, time::timeout};

use super::*;
use crate::{
    addr::{Host, Target},
    error::{DialClass, DialError, Side},
    flow::{Batch, BoxPacketIo, PacketIo},
};

const SHORT: Duration = Duration::from_secs(30);
const LARGEST: usize = 65_507;

async fn bind(addr: &str) -> UdpSocket {
    UdpSocket::bind(addr).await.unwrap()
}

async fn packets(addr: &str) -> UdpPackets {
    UdpPackets::new(bind(addr).await).unwrap()
}

async fn receive(io: &mut dyn PacketIo) -> io::Result<Vec<(Vec<u8>, Target)>> {
    let mut batch = Batch::new();
    timeout(SHORT, poll_fn(|cx| io.poll_recv(cx, &mut batch))).await.unwrap()?;
    Ok((0..batch.len()).map(|i| (batch.payload(i).to_vec(), batch.peer(i).clone())).collect())
}

/// Receives until there are `count` datagrams.
async fn receive_all(io: &mut dyn PacketIo, count: usize) -> Vec<(Vec<u8>, Target)> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(receive(io).await.unwrap());
    }
    all
}

async fn transmit(io: &mut dyn PacketIo, list: &[(Vec<u8>, Target)]) -> io::Result<()> {
    for part in list.chunks(crate::flow::BATCH) {
        let mut batch = Batch::new();
        for (payload, peer) in part {
            assert!(batch.push(payload, peer.clone()));
        }
        timeout(SHORT, poll_fn(|cx| io.poll_send(cx, &mut batch))).await.unwrap()?;
        assert!(batch.is_empty());
    }
    Ok(())
}

fn payload(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(97)) as u8).collect()
}

#[tokio::test]
async fn datagrams_of_every_size_pass_both_ways_in_both_families() {
    for (addr, peer_addr) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
    {
        let mut io = packets(addr).await;
        let peer = bind(peer_addr).await;
        let to = Target::from(peer.local_addr().unwrap());
        let mut buffer = vec![0; 70_000];
        for (seed, size) in [0, 1, 1200, 1472, 1473, 9000, 40_000, LARGEST].into_iter().enumerate()
        {
            let sent = payload(size, seed);
            transmit(&mut io, &[(sent.clone(), to.clone())]).await.unwrap();
            let (n, from) = timeout(SHORT, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert!(buffer[..n] == sent, "size {size} from {addr}");
            peer.send_to(&sent, from).await.unwrap();
            let got = receive(&mut io).await.unwrap();
            // A dual-stack socket shows IPv4 peers as IPv4.
            assert!(got == [(sent, to.clone())], "size {size} to {addr}");
        }
    }
}

#[tokio::test]
async fn runs_of_one_size_leave_and_arrive_together() {
    let (mut a, mut b) = (packets("127.0.0.1:0").await, packets("127.0.0.1:0").await);
    let to = Target::from(b.local_addr().unwrap());
    let from = Target::from(a.local_addr().unwrap());
    let before = stats();
    for round in 0..4 {
        let sizes: Vec<usize> = match round {
            0 => vec![1200; 32],
            // Runs of several sizes, with shorter and empty ones in between.
            1 => (0..31).map(|i| [1350, 1350, 1350, 700, 0, 90, 1350, 3000][i % 8]).collect(),
            2 => vec![1300; 20],
            _ => (0..32).map(|i| 2000 - i).collect(),
        };
        let sent: Vec<_> =
            sizes.iter().enumerate().map(|(i, size)| (payload(*size, i), to.clone())).collect();
        transmit(&mut a, &sent).await.unwrap();
        let got = receive_all(&mut b, sent.len()).await;
        assert_eq!(got.len(), sent.len());
        for (i, (got, sent)) in got.iter().zip(&sent).enumerate() {
            assert!(got.0 == sent.0, "round {round} packet {i}");
            assert_eq!(got.1, from);
        }
    }
    let after = stats();
    assert!(after.segmented >= before.segmented + 52);
    assert!(after.coalesced >= before.coalesced + 52);
}

#[tokio::test]
async fn coalesced_datagrams_that_overflow_a_batch_wait_for_the_next() {
    let (mut a, mut b) = (packets("127.0.0.1:0").await, packets("127.0.0.1:0").await);
    let to = Target::from(b.local_addr().unwrap());
    let list: Vec<_> = (0..32).map(|i| (payload(500, i), to.clone())).collect();
    for _ in 0..3 {
        transmit(&mut a, &list).await.unwrap();
    }
    // A batch that has little room.
    let mut got = Vec::new();
    while got.len() < 96 {
        let mut batch = Batch::new();
        (0..29).for_each(|_| batch.commit(0, Target::unspecified()));
        timeout(SHORT, poll_fn(|cx| b.poll_recv(cx, &mut batch))).await.unwrap().unwrap();
        got.extend((29..batch.len()).map(|i| batch.payload(i).to_vec()));
    }
    for (i, got) in got.iter().enumerate() {
        assert!(*got == list[i % 32].0, "packet {i}");
    }
}

#[tokio::test]
async fn a_refusal_ends_a_connected_association_only() {
    let closed = bind("127.0.0.1:0").await.local_addr().unwrap();
    let open = bind("127.0.0.1:0").await;
    let mut io = packets("127.0.0.1:0").await;
    for _ in 0..3 {
        let to_open = (vec![7], Target::from(open.local_addr().unwrap()));
        let nowhere = (vec![1], Target::new("example.org", 9));
        let list = [(vec![1], Target::from(closed)), nowhere, to_open];
        transmit(&mut io, &list).await.unwrap();
        assert_eq!(timeout(SHORT, open.recv(&mut [0; 9])).await.unwrap().unwrap(), 1);
    }
    let socket = bind("127.0.0.1:0").await;
    socket.connect(closed).await.unwrap();
    let mut io = UdpPackets::connected(socket, None).unwrap();
    // The reactor does not report it to a reader: the next packet meets it.
    let packet = [(vec![1], Target::unspecified())];
    transmit(&mut io, &packet).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = transmit(&mut io, &packet).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_connected_association_shows_the_name_and_ignores_others() {
    let (peer, stranger) = (bind("127.0.0.1:0").await, bind("127.0.0.1:0").await);
    let socket = bind("127.0.0.1:0").await;
    socket.connect(peer.local_addr().unwrap()).await.unwrap();
    let shown = Target::new("example.org", 53);
    let mut io = UdpPackets::connected(socket, Some(shown.clone())).unwrap();
    transmit(&mut io, &[(vec![1], Target::new("other.example", 1))]).await.unwrap();
    let (_, from) = timeout(SHORT, peer.recv_from(&mut [0; 9])).await.unwrap().unwrap();
    stranger.send_to(b"no", from).await.unwrap();
    peer.send_to(b"yes", from).await.unwrap();
    assert_eq!(receive(&mut io).await.unwrap(), [(b"yes".to_vec(), shown)]);
}

fn resolver(asked: Arc<AtomicUsize>) -> Resolver {
    Box::new(move |name| {
        asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            match &*name {
                "here.example" => Ok("127.0.0.1".parse().unwrap()),
                _ => Err(DialError::new(DialClass::HostUnreachable, Side::Target, "no such host")),
            }
        })
    })
}

#[tokio::test]
async fn names_are_resolved_once_and_replies_carry_them() {
    for unmapped in [true, false] {
        let peer = bind("127.0.0.1:0").await;
        let addr = peer.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let inner: BoxPacketIo = Box::new(packets("0.0.0.0:0").await);
        let mut io = ResolvingPackets::new(inner, !unmapped, resolver(asked.clone()));
        let name = Target::new("here.example", addr.port());
        let bad = Target::new("gone.example", addr.port());
        let list: Vec<_> = (0..40u8)
            .map(|i| (vec![i], if i % 4 == 3 { bad.clone() } else { name.clone() }))
            .collect();
        transmit(&mut io, &list).await.unwrap();
        let serve = async {
            let (mut got, mut from) = (Vec::new(), None);
            while got.len() < 30 {
                let mut byte = [0];
                let (_, source) = timeout(SHORT, peer.recv_from(&mut byte)).await.unwrap().unwrap();
                got.push(byte[0]);
                from = Some(source);
            }
            peer.send_to(b"back", from.unwrap()).await.unwrap();
            got
        };
        let (got, reply) = tokio::join!(serve, receive(&mut io));
        assert_eq!(got, (0..40).filter(|i| i % 4 != 3).collect::<Vec<u8>>());
        let shown = if unmapped { name.clone() } else { Target::from(addr) };
        assert_eq!(reply.unwrap(), [(b"back".to_vec(), shown)]);
        // Known now; and a client that goes on with the address gets the address.
        transmit(&mut io, &[(vec![1], name.clone()), (vec![2], bad)]).await.unwrap();
        peer.recv_from(&mut [0]).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        transmit(&mut io, &[(vec![1], Target::from(addr))]).await.unwrap();
        let (_, from) = peer.recv_from(&mut [0]).await.unwrap();
        peer.send_to(b"ip", from).await.unwrap();
        assert_eq!(receive(&mut io).await.unwrap(), [(b"ip".to_vec(), Target::from(addr))]);
    }
}

/// Sessions as an inbound would take them, each echoing with the tag in front.
fn echo(tag: u8) -> (impl FnMut(NewSession) + Send + 'static, Arc<Mutex<Vec<SocketAddr>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let admit = move |mut new: NewSession| {
        list.lock().push(new.source);
        tokio::spawn(async move {
            while let Ok(got) = receive(&mut *new.packets).await {
                let tagged: Vec<_> = got
                    .into_iter()
                    .map(|(mut payload, target)| {
                        payload.insert(0, tag);
                        (payload, target)
                    })
                    .collect();
                transmit(&mut *new.packets, &tagged).await.unwrap();
            }
        });
    };
    (admit, seen)
}

fn fixed(
    target: &'static str,
) -> impl FnMut(SocketAddr, &mut [u8]) -> Option<(std::ops::Range<usize>, Target)> + Send {
    move |_, payload| Some((0..payload.len(), Target::new(Host::from(target), 7)))
}

#[tokio::test]
async fn clients_of_one_socket_are_told_apart_and_outlive_the_loop() {
    let socket = Arc::new(bind("0.0.0.0:0").await);
    let addr = SocketAddr::from(([127, 0, 0, 1], socket.local_addr().unwrap().port()));
    let nat = Nat::on(&socket).unwrap();
    let (admit, seen) = echo(b'1');
    let serving = nat.clone();
    let first = tokio::spawn(async move { serving.serve(fixed("192.0.2.1"), admit).await });
    let clients = [bind("127.0.0.1:0").await, bind("127.0.0.1:0").await, bind("127.0.0.1:0").await];
    let mut buffer = vec![0; 70_000];
    for round in 0..3 {
        for (i, client) in clients.iter().enumerate() {
            for size in [1, 1400, LARGEST - 1] {
                let sent = payload(size, i * 10 + round);
                client.send_to(&sent, addr).await.unwrap();
                let (n, from) =
                    timeout(SHORT, client.recv_from(&mut buffer)).await.unwrap().unwrap();
                assert!(from == addr && buffer[0] == b'1' && buffer[1..n] == sent);
            }
        }
    }
    assert_eq!((nat.len(), seen.lock().len()), (3, 3));
    // The loop crashes. Its successor finds the same table through the socket alone.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    drop(nat);
    clients[0].send_to(b"waits in the socket", addr).await.unwrap();
    let (admit, seen) = echo(b'2');
    let nat = Nat::on(&socket).unwrap();
    assert_eq!(nat.len(), 3);
    let serving = nat.clone();
    let second = tokio::spawn(async move { serving.serve(fixed("192.0.2.1"), admit).await });
    let n = timeout(SHORT, clients[0].recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"1waits in the socket");
    let newcomer = bind("127.0.0.1:0").await;
    newcomer.send_to(b"x", addr).await.unwrap();
    let n = timeout(SHORT, newcomer.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"2x");
    assert_eq!(seen.lock().len(), 1);
    // Sessions that end leave the table.
    nat.clear();
    timeout(SHORT, async {
        while Arc::strong_count(&nat) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(nat.is_empty());
    second.abort();
}

#[tokio::test]
async fn a_flood_of_clients_and_packets_stays_bounded() {
    let socket = Arc::new(bind("127.0.0.1:0").await);
    let addr = socket.local_addr().unwrap();
    let nat = Nat::on(&socket).unwrap();
    nat.limit(8);
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let list = sessions.clone();
    let serving = nat.clone();
    let task = tokio::spawn(async move {
        serving.serve(fixed("here.example"), move |new| list.lock().push(new)).await
    });
    let mut clients = Vec::new();
    for i in 0..20 {
        let client = bind("127.0.0.1:0").await;
        client.send_to(b"x", addr).await.unwrap();
        timeout(SHORT, async {
            while sessions.lock().len() <= i {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert!(nat.len() <= 8);
        clients.push(client);
    }
    // The oldest was closed, with what it had not read.
    let mut oldest = sessions.lock().remove(0);
    assert_eq!(
        receive(&mut *oldest.packets).await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    // A session that does not read keeps only so much.
    let last = clients.last().unwrap();
    for _ in 0..400 {
        last.send_to(&[0; 1000], addr).await.unwrap();
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut newest = sessions.lock().pop().unwrap();
    let mut count = 0;
    while let Ok(Ok(got)) = timeout(Duration::from_millis(100), receive(&mut *newest.packets)).await
    {
        count += got.len();
    }
    assert!((100..=128).contains(&count), "{count} packets were kept");
    assert_eq!(newest.target, Target::new("here.example", 7));
    drop(newest);
    assert!(nat.len() < 8);
    task.abort();
}

/// Answers come from the address that was asked, to each of several clients, whatever the socket is bound to.
#[tokio::test]
async fn a_shared_socket_answers_each_client_from_where_it_asked() {
    for (addr, asked) in [
        ("127.0.0.1:0", &["127.0.0.1"][..]),
        ("[::1]:0", &["::1"]),
        ("[::]:0", &["127.0.0.1", "127.0.0.2", "::1"]),
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"]),
    ] {
        let socket = Arc::new(bind(addr).await);
        let port = socket.local_addr().unwrap().port();
        let mut shared = SharedUdp::on(socket).unwrap();
        let mut clients = Vec::new();
        for n in 0..40 {
            let asked: std::net::IpAddr = asked[n % asked.len()].parse().unwrap();
            let local = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let client = bind(local).await;
            client.send_to(&payload(20 + n, n), (asked, port)).await.unwrap();
            clients.push((client, SocketAddr::new(asked, port)));
        }
        let (mut answered, mut batch, mut backs) = (0, Batch::new(), Vec::new());
        while answered < clients.len() {
            timeout(SHORT, shared.readable()).await.unwrap().unwrap();
            while let Ok(got) = shared.try_recv(&mut batch, &mut backs) {
                assert_eq!(backs.len(), got);
                answered += got;
                timeout(SHORT, shared.send(&mut batch, &mut backs)).await.unwrap().unwrap();
                assert!(batch.is_empty() && backs.is_empty());
            }
        }
        let mut buffer = [0; 100];
        for (n, (client, server)) in clients.iter().enumerate() {
            let (len, from) = timeout(SHORT, client.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!((&buffer[..len], from), (&*payload(20 + n, n), *server), "{addr}");
        }
    }
}
