//! SOCKS on both sides.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    DIRECT, World, connect, echo, free_port, ping, request5, rest, serve, socks5, take,
};

fn inbound(kind: &str, port: u16) -> String {
    format!(r#"{{"type": "{kind}", "tag": "in", "listen_port": {port}}}"#)
}

#[tokio::test]
async fn four_dialects_through_mixed() {
    let (port, to) = (free_port(), echo().await);
    let world = World::new(&[DIRECT], &[&inbound("mixed", port)]).await;

    let (mut stream, code) = socks5(port, to).await;
    assert_eq!(code, 0);
    ping(&mut stream, b"five").await;

    let [hi, lo] = to.port().to_be_bytes();
    let mut stream = connect(port).await;
    stream.write_all(&[4, 1, hi, lo, 127, 0, 0, 1, b'm', b'e', 0]).await.unwrap();
    assert_eq!(take(&mut stream, 8).await[..2], [0, 90]);
    ping(&mut stream, b"four").await;
    assert_eq!(world.last().user.as_deref(), Some("me"));

    let mut stream = connect(port).await;
    stream.write_all(&[&[4, 1, hi, lo, 0, 0, 0, 1, 0][..], b"a.test\0"].concat()).await.unwrap();
    assert_eq!(take(&mut stream, 8).await[..2], [0, 90]);
    ping(&mut stream, b"four a").await;
    assert_eq!(world.last().target.to_string(), format!("a.test:{}", to.port()));

    let mut stream = connect(port).await;
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\nearly").as_bytes()).await.unwrap();
    assert_eq!(take(&mut stream, 44).await, b"HTTP/1.1 200 Connection established\r\n\r\nearly");
    ping(&mut stream, b"connect").await;
    assert_eq!(world.routed(), 4);
}

#[tokio::test]
async fn one_write_answers_one_write() {
    let (port, to) = (free_port(), echo().await);
    let _world = World::new(&[DIRECT], &[&inbound("socks", port)]).await;
    let mut stream = connect(port).await;
    let mut hello = b"\x05\x02\x00\x01".to_vec();
    hello.extend(request5(1, to));
    hello.extend(b"early");
    stream.write_all(&hello).await.unwrap();
    let mut bytes = [0; 64];
    // The answers to greeting and request are one segment.
    let n = stream.read(&mut bytes).await.unwrap();
    assert!(n >= 12, "{n} bytes");
    let mut got = bytes[..n].to_vec();
    while got.len() < 17 {
        got.push(stream.read_u8().await.unwrap());
    }
    assert_eq!((&got[..4], &got[12..]), (&b"\x05\x00\x05\x00"[..], &b"early"[..]));
}

#[tokio::test]
async fn failures_have_their_codes() {
    let port = free_port();
    let blocked = free_port();
    let world = World::new(
        &[DIRECT, r#"{"type": "block", "tag": "blocked"}"#],
        &[
            &inbound("socks", port),
            &format!(r#"{{"type": "socks", "tag": "blocked", "listen_port": {blocked}}}"#),
        ],
    )
    .await;
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (mut stream, code) = socks5(port, nobody).await;
    assert_eq!((code, rest(&mut stream).await), (5, vec![]));
    let (mut stream, code) = socks5(blocked, nobody).await;
    assert_eq!((code, rest(&mut stream).await), (2, vec![]));

    let mut stream = connect(port).await;
    stream.write_all(b"\x05\x01\x00\x05\x01\x00\x03\x05where\x00\x50").await.unwrap();
    assert_eq!(take(&mut stream, 12).await[2..4], [5, 4]);
    for (bad, answer) in [
        (
            &b"\x05\x01\x00\x05\x02\x00\x01\0\0\0\0\0\0"[..],
            &b"\x05\x00\x05\x07\x00\x01\0\0\0\0\0\0"[..],
        ),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08\x00\x01\0\0\0\0\0\0"),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
    ] {
        let mut stream = connect(port).await;
        stream.write_all(bad).await.unwrap();
        assert_eq!(rest(&mut stream).await, answer);
    }
    assert_eq!(world.plane.ledger.len(), 0);
}

#[tokio::test]
async fn chains_with_login() {
    let to = echo().await;
    let back = |port| {
        format!(
            r#"{{"type": "socks", "tag": "middle", "listen_port": {port}, "users": [{{"username": "u", "password": "p"}}, {{"username": "four"}}]}}"#
        )
    };
    for (version, login) in [
        ("5", r#""username": "u", "password": "p""#),
        ("4a", r#""username": "four""#),
        ("4", r#""username": "four""#),
    ] {
        let (front, middle) = (free_port(), free_port());
        let out = format!(
            r#"{{"type": "socks", "tag": "in", "server": "proxy.test", "server_port": {middle}, "version": "{version}", {login}}}"#
        );
        let world = World::new(&[DIRECT, &out], &[&inbound("mixed", front), &back(middle)]).await;
        let (mut stream, code) = socks5(front, to).await;
        assert_eq!(code, 0, "version {version}");
        ping(&mut stream, b"chained").await;
        assert_eq!(world.last().user.as_deref(), Some(if version == "5" { "u" } else { "four" }));
        let mut stream = connect(front).await;
        stream
            .write_all(format!("CONNECT a.test:{} HTTP/1.1\r\n\r\n", to.port()).as_bytes())
            .await
            .unwrap();
        take(&mut stream, 39).await;
        ping(&mut stream, b"by name").await;
        // Only SOCKS4 resolves names before it asks.
        let seen = world.last().target.host.name().map(str::to_owned);
        assert_eq!(seen.as_deref(), (version != "4").then_some("a.test"));
        // The far end's refusal comes through.
        let (_, code) =
            socks5(front, std::net::SocketAddr::from(([127, 0, 0, 1], free_port()))).await;
        assert_eq!(code, if version == "5" { 5 } else { 1 });
    }
    let (front, middle) = (free_port(), free_port());
    let wrong = format!(
        r#"{{"type": "socks", "tag": "in", "server": "127.0.0.1", "server_port": {middle}, "username": "u", "password": "x"}}"#
    );
    let _world = World::new(&[DIRECT, &wrong], &[&inbound("mixed", front), &back(middle)]).await;
    assert_eq!(socks5(front, to).await.1, 1);
}

#[tokio::test]
async fn payload_behind_the_reply_is_kept() {
    // A proxy that says everything at once, one octet at a time.
    let server = serve(|mut stream| async move {
        take(&mut stream, 3).await;
        stream.write_all(b"\x05\x00").await.unwrap();
        take(&mut stream, 10).await;
        stream.set_nodelay(true).unwrap();
        for byte in b"\x05\x00\x00\x03\x06a.test\x00\x50hello" {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    let port = free_port();
    let out = format!(
        r#"{{"type": "socks", "tag": "out", "server": "127.0.0.1", "server_port": {}}}"#,
        server.port()
    );
    let _world = World::new(&[&out], &[&inbound("mixed", port)]).await;
    let (mut stream, code) = socks5(port, server).await;
    assert_eq!((code, rest(&mut stream).await), (0, b"hello".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn slow_clients_are_dropped() {
    let port = free_port();
    let _world = World::new(&[DIRECT], &[&inbound("mixed", port)]).await;
    for words in
        [&b"\x05"[..], b"\x05\x01\x00\x05\x01", b"GET http://a.test/ HTTP/1.1\r\nA: b", b""]
    {
        let mut stream = connect(port).await;
        stream.write_all(words).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer == b"\x05\x00", "{answer:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_built_harms_nothing() {
    let (port, to) = (free_port(), echo().await);
    let out = format!(
        r#"{{"type": "socks", "tag": "out", "server": "127.0.0.1", "server_port": {port}, "udp_over_tcp": {{"enabled": true, "version": 3}}}}"#
    );
    let mut world = World::new(&[DIRECT], &[&inbound("mixed", port)]).await;
    let error = world.build(crosspoint_kernel::Kind::Outbound, &out).await.unwrap_err();
    assert!(error.contains("version"), "{error}");
    let tls = r#"{"type": "mixed", "tag": "t", "tls": {"enabled": true}}"#;
    let error = world.build(crosspoint_kernel::Kind::Inbound, tls).await.unwrap_err();
    assert!(error.contains("missing certificate"), "{error}");
    let (mut stream, _) = socks5(port, to).await;
    ping(&mut stream, b"still").await;
}

#[tokio::test]
async fn injected_connections_are_served() {
    let (port, outer, to) = (free_port(), free_port(), echo().await);
    let direct =
        format!(r#"{{"type": "direct", "tag": "outer", "listen_port": {outer}, "detour": "in"}}"#);
    let world = World::new(&[DIRECT], &[&inbound("mixed", port), &direct]).await;
    let (mut stream, code) = socks5(outer, to).await;
    assert_eq!(code, 0);
    ping(&mut stream, b"through both").await;
    let session = world.last();
    assert_eq!((&*session.inbound.tag, session.target), ("in", to.into()));
    assert_eq!(session.source, stream.local_addr().unwrap());
}
