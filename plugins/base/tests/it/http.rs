//! HTTP on both sides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    DIRECT, World, connect, echo, free_port, head, ping, rest, serve, socks5, take,
};

const KEEP: &str =
    "Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nKeep-Alive: timeout=4\r\n\r\n";

async fn proxy() -> (u16, World) {
    let port = free_port();
    let inbound = format!(r#"{{"type": "http", "tag": "in", "listen_port": {port}}}"#);
    (port, World::new(&[DIRECT], &[&inbound]).await)
}

/// An origin that answers every request with `N METHOD PATH`, N being the number of its connection.
async fn origin() -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let addr = serve(move |mut stream| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            loop {
                let Some(request) = request(&mut stream).await else { return };
                let line = request
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(" HTTP/1.1")
                    .to_owned();
                let body = format!("{number} {line}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nServer: x\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (addr, connections)
}

/// Reads a head; `None` at the end.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Sends a request and reads an answer with a length: head and body.
async fn exchange(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(stream).await;
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    let body = take(stream, length.parse().unwrap()).await;
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn several_requests_on_one_connection() {
    let (port, world) = proxy().await;
    let ((one, first), (two, second)) = (origin().await, origin().await);
    let mut client = connect(port).await;
    for (to, path, expected, routed) in [
        (one, "/a", "1 GET /a", 1),
        // The same host: the same connection, routed once.
        (one, "/b", "1 GET /b", 1),
        (two, "/c", "1 GET /c", 2),
        (one, "/d", "2 GET /d", 3),
    ] {
        let request = format!(
            "GET http://{to}{path} HTTP/1.1\r\nHost: {to}\r\nProxy-Connection: Keep-Alive\r\n\r\n"
        );
        let (head, body) = exchange(&mut client, &request).await;
        assert_eq!(body, expected);
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 8\r\n{KEEP}"));
        assert_eq!(world.routed(), routed);
    }
    assert_eq!((first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)), (2, 1));
    // Requests with effects never share a connection, and have bodies.
    let (_, body) = exchange(
        &mut client,
        &format!("POST http://{one}/p HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    )
    .await;
    assert_eq!(body, "3 POST /p");
    // Last, a tunnel on what was a plain connection.
    let to = echo().await;
    client.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
    ping(&mut client, b"tunnel").await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (port, _world) = proxy().await;
    let ((one, _), (two, _)) = (origin().await, origin().await);
    let mut client = connect(port).await;
    let all: String = [one, one, two, one]
        .iter()
        .enumerate()
        .map(|(i, to)| format!("GET http://{to}/{i} HTTP/1.1\r\n\r\n"))
        .collect();
    client.write_all(all.as_bytes()).await.unwrap();
    for expected in ["1 GET /0", "1 GET /1", "1 GET /2", "2 GET /3"] {
        assert_eq!(exchange(&mut client, "").await.1, expected);
    }
}

#[tokio::test]
async fn bodies_go_both_ways() {
    let (port, _world) = proxy().await;
    // Echoes chunked bodies, chunk by chunk, after an interim response.
    let to = serve(|mut stream| async move {
        while let Some(request) = request(&mut stream).await {
            assert!(request.contains("Transfer-Encoding: chunked\r\n"), "{request}");
            if request.contains("Expect") {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await
                .unwrap();
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await.unwrap());
                if body.len() % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            stream.write_all(&body).await.unwrap();
        }
    })
    .await;
    let mut client = connect(port).await;
    let post = format!(
        "POST http://{to}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    );
    client.write_all(post.as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(
        head(&mut client).await,
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{KEEP}")
    );
    // The next request comes in the segment that ends the body.
    let body = "5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n0\r\n\r\n";
    let body = &body[..body.len() - 5].replace("0\r\nA: b\r\n\r\n", "0\r\n\r\n");
    client
        .write_all(format!("{body}{}", post.replace("Expect: 100-continue\r\n", "")).as_bytes())
        .await
        .unwrap();
    assert_eq!(take(&mut client, body.len()).await, body.as_bytes());
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\nTransfer-Encoding"));
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(take(&mut client, 5).await, b"0\r\n\r\n");

    // HTTP/1.0 clients cannot read chunks.
    let mut old = connect(port).await;
    let get = format!("GET http://{to}/ HTTP/1.0\r\n\r\n");
    old.write_all(get.as_bytes()).await.unwrap();
    drop(old);
}

#[tokio::test]
async fn old_clients_get_plain_bodies() {
    let (port, _world) = proxy().await;
    let to = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let mut client = connect(port).await;
    client.write_all(format!("GET http://{to}/ HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde");
}

#[tokio::test]
async fn large_bodies_come_whole() {
    let (port, _world) = proxy().await;
    const SIZE: usize = 3 << 20;
    let to = serve(|mut stream| async move {
        request(&mut stream).await;
        let body: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        stream.write_all(&body).await.unwrap();
        // And more than was announced, which nobody may see.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    })
    .await;
    let (next, _) = origin().await;
    let mut client = connect(port).await;
    client.write_all(format!("GET http://{to}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    head(&mut client).await;
    let body = take(&mut client, SIZE).await;
    assert!(body.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
    assert_eq!(
        exchange(&mut client, &format!("GET http://{next}/n HTTP/1.1\r\n\r\n")).await.1,
        "1 GET /n"
    );
}

#[tokio::test]
async fn a_body_until_the_end_ends_the_connection() {
    let (port, _world) = proxy().await;
    let to = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await.unwrap();
    })
    .await;
    let mut client = connect(port).await;
    client.write_all(format!("GET http://{to}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(rest(&mut client).await, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it");
}

#[tokio::test]
async fn upgrades_become_tunnels() {
    let (port, _world) = proxy().await;
    let to = serve(|mut stream| async move {
        let request = request(&mut stream).await.unwrap();
        assert!(request.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{request}");
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi").await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let mut client = connect(port).await;
    let get = format!(
        "GET http://{to}/ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.write_all(get.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(take(&mut client, 2).await, b"hi");
    ping(&mut client, b"frames").await;
}

#[tokio::test]
async fn failures_have_their_status() {
    let port = free_port();
    let blocked = free_port();
    let world = World::new(
        &[DIRECT, r#"{"type": "block", "tag": "blocked"}"#],
        &[
            &format!(r#"{{"type": "http", "tag": "in", "listen_port": {port}}}"#),
            &format!(r#"{{"type": "mixed", "tag": "blocked", "listen_port": {blocked}}}"#),
        ],
    )
    .await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let silent = serve(|mut stream| async move {
        request(&mut stream).await;
    })
    .await;
    let rude = serve(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"SSH-2.0-x\r\n\r\n").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let (good, _) = origin().await;
    for (proxy, to, status) in [
        (port, nobody.to_string(), "502 Bad Gateway"),
        (port, "nowhere.invalid:80".into(), "502 Bad Gateway"),
        (port, silent.to_string(), "502 Bad Gateway"),
        (port, rude.to_string(), "502 Bad Gateway"),
        (blocked, nobody.to_string(), "403 Forbidden"),
    ] {
        let mut client = connect(proxy).await;
        let (head, _) = exchange(&mut client, &format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
        assert_eq!(head, format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{KEEP}"), "{to}");
        if proxy == port {
            // The client keeps its connection.
            let (_, body) =
                exchange(&mut client, &format!("GET http://{good}/x HTTP/1.1\r\n\r\n")).await;
            assert!(body.ends_with("GET /x"), "{body}");
        }
        if to != silent.to_string() && to != rude.to_string() {
            let mut client = connect(proxy).await;
            client.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
            let answer = String::from_utf8(rest(&mut client).await).unwrap();
            assert_eq!(
                answer,
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
                "{to}"
            );
        }
    }
    for (bad, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET https://a.test/ HTTP/1.1\r\n\r\n", "501"),
        ("POST http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("\x16\x03\x01\x00\x01", "400"),
    ] {
        let mut client = connect(port).await;
        client.write_all(bad.as_bytes()).await.unwrap();
        let answer = String::from_utf8(rest(&mut client).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bad:?}: {answer:?}");
    }
    let mut client = connect(port).await;
    let long = format!("GET http://a.test/ HTTP/1.1\r\nA: {}", "x".repeat(70_000));
    // The proxy may close before it has read all of it.
    let _ = client.write_all(long.as_bytes()).await;
    assert!(rest(&mut client).await.starts_with(b"HTTP/1.1 431 "));
    for _ in 0..100 {
        if world.plane.ledger.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("connections are left in the ledger");
}

#[tokio::test]
async fn a_dead_connection_is_replaced() {
    let (port, world) = proxy().await;
    // Serves one request per connection, but does not say so; closes when the second one comes.
    let count = Arc::new(AtomicUsize::new(0));
    let number = count.clone();
    let to = serve(move |mut stream| {
        let n = number.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            request(&mut stream).await;
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}").as_bytes())
                .await
                .unwrap();
            request(&mut stream).await;
        }
    })
    .await;
    let mut client = connect(port).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(
            exchange(&mut client, &format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await.1,
            expected
        );
    }
    assert_eq!(world.routed(), 3);
}

#[tokio::test]
async fn login_and_stated_source() {
    let port = free_port();
    let inbound = format!(
        r#"{{"type": "http", "tag": "in", "listen_port": {port}, "users": [{{"username": "user", "password": "secret"}}]}}"#
    );
    let world = World::new(&[DIRECT], &[&inbound]).await;
    let (to, _) = origin().await;
    let mut client = connect(port).await;
    client.write_all(format!("GET http://{to}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let answer = String::from_utf8(rest(&mut client).await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 407 ")
            && answer.contains("\r\nProxy-Authenticate: Basic realm="),
        "{answer}"
    );
    let mut client = connect(port).await;
    let get = format!(
        "GET http://{to}/x HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
    );
    assert_eq!(exchange(&mut client, &get).await.1, "1 GET /x");
    let session = world.last();
    assert_eq!(
        (session.user.as_deref(), session.source.to_string().as_str()),
        (Some("user"), "192.0.2.9:0")
    );
}

#[tokio::test]
async fn chains_with_path_and_headers() {
    let (front, middle, to) = (free_port(), free_port(), echo().await);
    let back = format!(
        r#"{{"type": "http", "tag": "middle", "listen_port": {middle}, "users": [{{"username": "u", "password": "p"}}]}}"#
    );
    let inbound = format!(r#"{{"type": "mixed", "tag": "in", "listen_port": {front}}}"#);
    let out = |more: &str| {
        format!(
            r#"{{"type": "http", "tag": "in", "server": "127.0.0.1", "server_port": {middle}, "username": "u"{more}}}"#
        )
    };
    let world = World::new(
        &[DIRECT, &out(r#", "password": "p", "path": "/a b", "headers": {"X-Forwarded-For": ["192.0.2.1"], "host": ""}"#)],
        &[&inbound, &back],
    )
    .await;
    let (mut stream, code) = socks5(front, to).await;
    assert_eq!(code, 0);
    ping(&mut stream, b"chained").await;
    let session = world.last();
    assert_eq!(
        (session.user.as_deref(), session.source.ip().to_string().as_str()),
        (Some("u"), "192.0.2.1")
    );
    // The far end's failure comes through as one.
    let (_, code) = socks5(front, SocketAddr::from(([127, 0, 0, 1], free_port()))).await;
    assert_eq!(code, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_clients_are_dropped() {
    let (port, world) = proxy().await;
    let (to, _) = origin().await;
    for more in ["", "GET http://a.t"] {
        let mut client = connect(port).await;
        let get = format!("GET http://{to}/ HTTP/1.1\r\n\r\n");
        assert!(exchange(&mut client, &get).await.1.ends_with("GET /"));
        client.write_all(more.as_bytes()).await.unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(rest(&mut client).await, b"");
        assert!(start.elapsed().as_secs() < 70);
    }
    assert_eq!(world.routed(), 2);
}
