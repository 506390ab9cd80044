use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crosspoint_kernel::{
    BoxFuture, DialError,
    component::{Dial, Outbound},
    flow::{BoxPacketIo, BoxStream},
    net::udp::UdpPackets,
};
use futures_util::future::join_all;
use tokio::{net::UdpSocket, time::timeout};

use super::*;

#[tokio::test]
async fn a_query_arrives_as_it_is_but_for_the_id() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let addr = udp_server(move |_, query| {
        sink.lock().unwrap().push(query.to_vec());
        vec![answer(query)]
    })
    .await;
    let server = at("udp", addr).await;
    for name in ["a.test", "B.test", "c.test"] {
        ask_well(&*server, 7, name).await;
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for (got, name) in seen.iter().zip(["a.test", "B.test", "c.test"]) {
        assert_eq!(got[2..], query(7, name)[2..]);
    }
    let ids: std::collections::HashSet<_> = seen.iter().map(|query| wire::id(query)).collect();
    assert!(ids.len() > 1, "ids change: {ids:?}");
}

#[tokio::test]
async fn what_does_not_match_is_ignored() {
    let addr = udp_server(|_, asked| {
        let right = answer(asked);
        let mut wrong_id = right.clone();
        wrong_id[0] ^= 0x55;
        let mut wrong_name = right.clone();
        wrong_name[13] ^= 1;
        let mut wrong_type = right.clone();
        let type_at = query(0, "a.test").len() - 23 - 4 + 1;
        wrong_type[type_at] ^= 1;
        let no_answer = asked.to_vec();
        vec![vec![], vec![0; 5], wrong_id, wrong_name, wrong_type, no_answer, right]
    })
    .await;
    let server = at("udp", addr).await;
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!(begun.elapsed() < Duration::from_millis(900), "not by a second attempt");
}

#[tokio::test]
async fn a_lost_packet_costs_a_second() {
    let addr = udp_server(|n, query| if n == 0 { vec![] } else { vec![answer(query)] }).await;
    let server = at("udp", addr).await;
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!((900..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_silent_socket_is_replaced_and_may_still_answer() {
    // The first socket hears nothing; the query is asked from another one.
    let first = Arc::new(Mutex::new(None));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut buf).await.unwrap();
            let dead = *first.lock().unwrap().get_or_insert(from);
            if from != dead {
                socket.send_to(&answer(&buf[..length]), from).await.unwrap();
            }
        }
    });
    let server = at("udp", addr).await;
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!((2900..4000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let begun = Instant::now();
    ask_well(&*server, 7, "b.test").await;
    assert!(begun.elapsed() < Duration::from_millis(900), "the new socket stays");
}

#[tokio::test]
async fn queries_do_not_wait_for_each_other() {
    // Answers come in reverse order, a hundred at a time, and no later than a query is sent again.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut buf, mut held) = ([0; 2000], Vec::new());
        loop {
            let next = timeout(Duration::from_millis(500), socket.recv_from(&mut buf)).await;
            if let Ok(received) = &next {
                let (length, from) = received.as_ref().unwrap();
                held.push((answer(&buf[..*length]), *from));
            }
            if next.is_err() || held.len() == 100 {
                for (message, to) in held.drain(..).rev() {
                    socket.send_to(&message, to).await.unwrap();
                }
            }
        }
    });
    let server = at("udp", addr).await;
    // As many at once as the kernel keeps for a socket: 212,992 bytes, of which a small datagram takes 768.
    for wave in 0..5u16 {
        let asks = (0..200u16).map(|n| {
            let server = server.clone();
            async move { ask_well(&*server, n, &format!("q{n}.w{wave}.test")).await }
        });
        join_all(asks).await;
    }
}

#[tokio::test]
async fn what_is_truncated_comes_over_tcp() {
    let listener = listener().await;
    let addr = tcp_server(listener, |_, mut stream| async move {
        while let Some(query) = read_frame(&mut stream).await {
            let mut long = answer(&query);
            long.resize(65_535, 9);
            write_frame(&mut stream, &long).await;
        }
    })
    .await;
    let socket = UdpSocket::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut buf).await.unwrap();
            let mut short = answer(&buf[..length]);
            short[2] |= 2;
            socket.send_to(&short, from).await.unwrap();
        }
    });
    let server = at("udp", addr).await;
    for n in 0..3 {
        assert_eq!(ask(&*server, n, "long.test").await.unwrap().len(), 65_535);
    }
}

#[tokio::test]
async fn long_datagrams_are_taken() {
    let addr = udp_server(|_, query| {
        let mut long = answer(query);
        long.resize(60_000, 9);
        vec![long]
    })
    .await;
    let server = at("udp", addr).await;
    assert_eq!(ask(&*server, 7, "long.test").await.unwrap().len(), 60_000);
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    drop(socket);
    let server = at("udp", addr).await;
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let socket = UdpSocket::bind(addr).await.unwrap();
        let mut buf = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut buf).await.unwrap();
            socket.send_to(&answer(&buf[..length]), from).await.unwrap();
        }
    });
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    back.abort();
    let _ = back.await;
    // With nobody there the failure comes soon, and says why.
    let begun = Instant::now();
    let error = ask(&*server, 7, "b.test").await.unwrap_err().to_string();
    assert!(error.contains("connection refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn sockets_are_replaced_and_closed() {
    let ports = Arc::new(Mutex::new(std::collections::HashMap::<_, u32>::new()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let seen = ports.clone();
    tokio::spawn(async move {
        let mut buf = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut buf).await.unwrap();
            *seen.lock().unwrap().entry(from).or_default() += 1;
            socket.send_to(&answer(&buf[..length]), from).await.unwrap();
        }
    });
    let server = at("udp", addr).await;
    for n in 0..5000u16 {
        ask_well(&*server, n, "a.test").await;
    }
    server.reset();
    ask_well(&*server, 1, "a.test").await;
    let ports = ports.lock().unwrap();
    assert_eq!(ports.len(), 4, "{ports:?}");
    assert!(ports.values().all(|count| *count <= 2048));
}

/// Carries datagrams over sockets of its own, and notes what was dialled.
struct Carrier {
    to: SocketAddr,
    asked: Mutex<Vec<String>>,
    opened: AtomicUsize,
    empty: bool,
}

impl Carrier {
    fn new(to: SocketAddr, empty: bool) -> Arc<Self> {
        Arc::new(Self { to, asked: Mutex::default(), opened: AtomicUsize::new(0), empty })
    }
}

impl Outbound for Carrier {
    fn is_empty_direct(&self) -> bool {
        self.empty
    }

    fn connect<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async { Err(DialError::unsupported("no streams here")) })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        assert!(dial.trail.enter(&"tested".into()).is_err(), "the trail names who is asked");
        self.asked.lock().unwrap().push(dial.target.to_string());
        Box::pin(async move {
            self.opened.fetch_add(1, Ordering::Relaxed);
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.to).await?;
            Ok(Box::new(UdpPackets::connected(socket, Some(dial.target.clone()))?) as BoxPacketIo)
        })
    }
}

#[tokio::test]
async fn a_detour_gets_the_name() {
    let addr = udp_server(|n, query| if n == 3 { vec![] } else { vec![answer(query)] }).await;
    let carrier = Carrier::new(addr, false);
    let text = r#"{"type": "udp", "server": "dns.test", "detour": "out"}"#;
    let server = build(text, &[("out", carrier.clone())]).await;
    for n in 0..5 {
        ask_well(&*server, n, "a.test").await;
    }
    join_all((0..500).map(|n| {
        let server = server.clone();
        async move { ask_well(&*server, n, &format!("q{n}.test")).await }
    }))
    .await;
    assert_eq!(*carrier.asked.lock().unwrap(), ["dns.test:53"]);
}

#[tokio::test]
async fn an_old_server_goes_through_the_default_outbound() {
    let addr = udp_server(|_, query| vec![answer(query)]).await;
    let old = |default_dialer| Some(LegacyDns { default_dialer, ..LegacyDns::default() });
    let text = r#"{"type": "udp", "server": "192.0.2.1"}"#;
    let carrier = Carrier::new(addr, true);
    let server = build_old(text, &[("any", carrier.clone())], old(true)).await;
    ask_well(&*server, 7, "a.test").await;
    assert_eq!(*carrier.asked.lock().unwrap(), ["192.0.2.1:53"]);
    // Its detour may lead through an outbound that adds nothing; that of a new one may not.
    let text = r#"{"type": "udp", "server": "192.0.2.1", "detour": "any"}"#;
    let server = build_old(text, &[("any", carrier.clone())], old(false)).await;
    ask_well(&*server, 7, "a.test").await;
    let error = ask(&*build(text, &[("any", carrier)]).await, 7, "a.test").await.unwrap_err();
    assert_eq!(error.to_string(), "detour to an empty direct outbound makes no sense");
}

#[tokio::test]
async fn what_is_no_query_goes_nowhere() {
    let server = at("udp", "127.0.0.1:9".parse().unwrap()).await;
    for message in [&b""[..], b"short", &answer(&query(1, "a.test"))] {
        let query = Query { message, trail: &NO_TRAIL };
        let error = server.exchange(query).await.unwrap_err();
        assert_eq!(error.to_string(), "malformed query");
    }
}
