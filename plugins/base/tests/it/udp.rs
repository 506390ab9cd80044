//! Datagrams: SOCKS5 associations, `direct` on both sides.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::support::{DIRECT, World, address5, connect, free_port, request5, rest, take, udp_echo};

/// Opens an association: the control connection, and a socket that is connected to the relay.
async fn associate(port: u16) -> (TcpStream, UdpSocket) {
    let mut control = connect(port).await;
    control.write_all(b"\x05\x01\x00").await.unwrap();
    take(&mut control, 2).await;
    control.write_all(&request5(3, SocketAddr::from(([0, 0, 0, 0], 0)))).await.unwrap();
    let reply = take(&mut control, 10).await;
    assert_eq!(reply[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
    let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(relay).await.unwrap();
    (control, socket)
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let n =
        timeout(Duration::from_secs(5), socket.recv(&mut bytes)).await.expect("an answer").unwrap();
    bytes.truncate(n);
    bytes
}

fn datagram(address: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0], address, payload].concat()
}

#[tokio::test]
async fn associations_carry_datagrams() {
    let (port, to, other) = (free_port(), udp_echo().await, udp_echo().await);
    let world = World::new(
        &[DIRECT],
        &[&format!(r#"{{"type": "mixed", "tag": "in", "listen_port": {port}}}"#)],
    )
    .await;
    let (control, socket) = associate(port).await;
    // Noise that is dropped: too short, a fragment, no such address type, from a stranger.
    for noise in [&b"\0\0"[..], b"\0\0\x01\x01\x7f\0\0\x01\0\x50x", b"\0\0\0\x07\0"] {
        socket.send(noise).await.unwrap();
    }
    for peer in [to, other] {
        let sent = datagram(&address5(peer), &[7; 1200]);
        socket.send(&sent).await.unwrap();
        assert_eq!(receive(&socket).await, sent);
    }
    // By name, answered by name.
    let mut name = vec![3, 6];
    name.extend(b"a.test");
    name.extend(to.port().to_be_bytes());
    let sent = datagram(&name, b"by name");
    socket.send(&sent).await.unwrap();
    assert_eq!(receive(&socket).await, sent);
    // Many at once, large ones among them.
    for i in 0..100u8 {
        socket
            .send(&datagram(&address5(to), &vec![i; if i % 10 == 0 { 4096 } else { 100 }]))
            .await
            .unwrap();
        if i % 16 == 15 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut seen = 0;
    while seen < 100 {
        let got = receive(&socket).await;
        assert!(got[10..].iter().all(|byte| *byte == got[10]));
        seen += 1;
    }
    assert_eq!((world.routed(), world.plane.ledger.len()), (1, 1));
    assert_eq!(world.last().target, to.into());
    // The association ends with its connection.
    drop(control);
    for _ in 0..100 {
        if world.plane.ledger.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the association lives on");
}

#[tokio::test]
async fn associations_chain() {
    let (front, middle, to) = (free_port(), free_port(), udp_echo().await);
    let out = format!(
        r#"{{"type": "socks", "tag": "in", "server": "127.0.0.1", "server_port": {middle}}}"#
    );
    let world = World::new(
        &[DIRECT, &out],
        &[
            &format!(r#"{{"type": "socks", "tag": "in", "listen_port": {front}}}"#),
            &format!(r#"{{"type": "socks", "tag": "middle", "listen_port": {middle}}}"#),
        ],
    )
    .await;
    let (control, socket) = associate(front).await;
    for size in [0, 1, 1400, 9000] {
        let sent = datagram(&address5(to), &vec![1; size]);
        socket.send(&sent).await.unwrap();
        assert_eq!(receive(&socket).await, sent);
    }
    assert_eq!(world.routed(), 2);
    drop(control);
}

#[tokio::test]
async fn an_outbound_without_udp_ends_the_association() {
    let port = free_port();
    let out = r#"{"type": "http", "tag": "out", "server": "127.0.0.1", "server_port": 1}"#;
    let _world = World::new(
        &[out],
        &[&format!(r#"{{"type": "socks", "tag": "in", "listen_port": {port}}}"#)],
    )
    .await;
    let (mut control, socket) = associate(port).await;
    socket.send(&datagram(&address5(SocketAddr::from(([127, 0, 0, 1], 9))), b"x")).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(5), rest(&mut control)).await.expect("the end"), b"");
}

#[tokio::test]
async fn direct_forwards_a_port() {
    let (port, to) = (free_port(), udp_echo().await);
    let tcp = crate::support::echo().await;
    let tcp_port = free_port();
    let world = World::new(
        &[DIRECT],
        &[
            &format!(
                r#"{{"type": "direct", "tag": "udp", "listen_port": {port}, "network": "udp", "override_address": "a.test", "override_port": {}}}"#,
                to.port()
            ),
            &format!(
                r#"{{"type": "direct", "tag": "tcp", "listen_port": {tcp_port}, "network": "tcp", "override_port": {}}}"#,
                tcp.port()
            ),
        ],
    )
    .await;
    // Two clients, an association each.
    for text in [&b"first"[..], b"second"] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", port)).await.unwrap();
        for _ in 0..3 {
            socket.send(text).await.unwrap();
            assert_eq!(receive(&socket).await, text);
        }
    }
    assert_eq!(world.routed(), 2);
    assert_eq!(world.last().target.to_string(), format!("a.test:{}", to.port()));
    let mut stream = connect(tcp_port).await;
    crate::support::ping(&mut stream, b"stream").await;
    assert_eq!(world.last().target, tcp.into());
}

#[tokio::test]
async fn direct_overrides_destinations() {
    let (port, to) = (free_port(), udp_echo().await);
    let tcp = crate::support::echo().await;
    let out = |tag: &str, to: SocketAddr| {
        format!(
            r#"{{"type": "direct", "tag": "{tag}", "override_address": "127.0.0.1", "override_port": {}}}"#,
            to.port()
        )
    };
    let other = free_port();
    let _world = World::new(
        &[&out("in", to), &out("tcp", tcp)],
        &[
            &format!(r#"{{"type": "socks", "tag": "in", "listen_port": {port}}}"#),
            &format!(r#"{{"type": "socks", "tag": "tcp", "listen_port": {other}}}"#),
        ],
    )
    .await;
    let (_control, socket) = associate(port).await;
    let sent = datagram(&address5(SocketAddr::from(([192, 0, 2, 1], 53))), b"elsewhere");
    socket.send(&sent).await.unwrap();
    assert_eq!(receive(&socket).await, sent);
    let (mut stream, code) =
        crate::support::socks5(other, SocketAddr::from(([192, 0, 2, 1], 80))).await;
    assert_eq!(code, 0);
    crate::support::ping(&mut stream, b"elsewhere").await;
}
