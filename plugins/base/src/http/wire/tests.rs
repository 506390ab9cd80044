//! Requests and responses as they come and as they are passed on.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::host::{Host, Target};
use crate::users::Users;

const NOBODY: Option<&Users> = None;
const EXCHANGE: Exchange =
    Exchange { minor: 1, keep_alive: true, head_only: false, upgrade: false };

/// The target, whether the client is kept, the kind, and the head for the origin.
fn forward(head: &str) -> Result<(String, bool, Kind, String), Refusal> {
    let mut out = Vec::new();
    let head: &'static str = String::leak(head.to_owned());
    assert_eq!(find_head(head.as_bytes(), 0), Ok(Some(head.len())), "{head:?}");
    let incoming = read_request(head.as_bytes(), NOBODY, &mut out)?;
    Ok((
        incoming.target.to_string(),
        incoming.keep_alive,
        incoming.kind,
        String::from_utf8(out).unwrap(),
    ))
}

fn get(body: Body) -> Kind {
    Kind::Forward { body, head_only: false, idempotent: true, upgrade: false }
}

#[test]
fn rewrites_absolute_requests() {
    let (target, keep, kind, head) = forward(
        "GET http://user:p%40ss@a.test:80/x?y=1#frag HTTP/1.1\r\nHost: other.test\r\nProxy-Connection: Keep-Alive\r\n\
         Connection: keep-alive, X-Hop, Host\r\nX-Hop: 1\r\nAccept: */*\r\nProxy-Authorization: Basic x\r\nTE: trailers\r\n\r\n",
    )
    .unwrap();
    assert_eq!((target.as_str(), keep, kind), ("a.test:80", true, get(Body::Empty)));
    assert_eq!(
        head,
        "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\nAuthorization: Basic dXNlcjpwQHNz\r\n\r\n"
    );

    for (uri, target, line, host) in [
        ("http://a.test", "a.test:80", "GET / ", "a.test"),
        ("HTTP://a.test:8080?q", "a.test:8080", "GET /?q ", "a.test:8080"),
        ("http://[::1]:80/", "[::1]:80", "GET / ", "[::1]"),
        ("http://[::1]/", "[::1]:80", "GET / ", "[::1]"),
        ("http://127.0.0.1:81/a//b", "127.0.0.1:81", "GET /a//b ", "127.0.0.1:81"),
        ("ws://a.test/", "a.test:80", "GET / ", "a.test"),
    ] {
        let (got, _, _, head) = forward(&format!("GET {uri} HTTP/1.1\r\n\r\n")).unwrap();
        assert_eq!(got, target);
        assert_eq!(head, format!("{line}HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    let (_, _, _, head) = forward("OPTIONS http://a.test HTTP/1.1\r\n\r\n").unwrap();
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn framing_of_requests() {
    let kind = |fields: &str| forward(&format!("POST http://a.test/ HTTP/1.1\r\n{fields}\r\n"));
    let body = |fields: &str| match kind(fields) {
        Ok((_, keep, Kind::Forward { body, idempotent: false, .. }, head)) => (body, keep, head),
        other => panic!("{other:?}"),
    };
    let (got, keep, head) = body("Content-Length: 5\r\nContent-Length: 5\r\n");
    assert_eq!((got, keep), (Body::Length(5), true));
    assert!(
        head.ends_with("Content-Length: 5\r\n\r\n") && head.matches("Content-Length").count() == 1
    );
    let (got, keep, head) = body("Content-Length: 5\r\nTransfer-Encoding: Chunked\r\n");
    assert_eq!((got, keep), (Body::Chunked(Chunks::default()), false));
    assert!(
        head.ends_with("Transfer-Encoding: chunked\r\n\r\n") && !head.contains("Content-Length")
    );
    let (got, _, head) = body("Content-Length: 0\r\n");
    assert_eq!(got, Body::Empty);
    assert!(head.ends_with("Content-Length: 0\r\n\r\n"));
    for bad in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: \r\n",
    ] {
        assert_eq!(
            kind(bad).unwrap_err().answer().get(..12),
            Some(&b"HTTP/1.1 400"[..]),
            "{bad:?}"
        );
    }
    for bad in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: x\r\n",
    ] {
        assert_eq!(kind(bad), Err(Refusal::Head(HeadError::Coding)));
    }
    let old = forward("POST http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(matches!(old, Err(Refusal::Head(HeadError::Malformed(_)))));
    // Who may send a second request.
    for (line, keep) in [
        ("HTTP/1.0\r\n", false),
        ("HTTP/1.0\r\nProxy-Connection: keep-alive\r\n", false),
        ("HTTP/1.1\r\nConnection: close\r\n", false),
        ("HTTP/1.1\r\nproxy-connection: CLOSE\r\n", false),
        ("HTTP/1.1\r\n", true),
    ] {
        assert_eq!(forward(&format!("GET http://a.test/ {line}\r\n")).unwrap().1, keep, "{line:?}");
    }
}

#[test]
fn connect_requests() {
    for (line, target) in [
        ("CONNECT a.test:443 HTTP/1.1\r\n", "a.test:443"),
        ("CONNECT [2001:db8::1]:443 HTTP/1.0\r\n", "[2001:db8::1]:443"),
        ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n", "127.0.0.1:1"),
        ("CONNECT a.test HTTP/1.1\r\n", "a.test:80"),
        ("CONNECT /path HTTP/1.1\r\nHost: a.test:443\r\n", "a.test:443"),
    ] {
        let (got, keep, kind, head) = forward(&format!("{line}\r\n")).unwrap();
        assert_eq!((got.as_str(), keep, kind, head.as_str()), (target, false, Kind::Connect, ""));
    }
    for (line, refusal) in [
        ("CONNECT / HTTP/1.1\r\n", Refusal::Target),
        ("CONNECT :443 HTTP/1.1\r\n", Refusal::Target),
        ("CONNECT ::1 HTTP/1.1\r\n", Refusal::Target),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n", Refusal::Target),
        ("GET http:/// HTTP/1.1\r\n", Refusal::Target),
        ("GET https://a.test/ HTTP/1.1\r\n", Refusal::Https),
        ("GET ftp://a.test/ HTTP/1.1\r\n", Refusal::Scheme),
        ("PRI * HTTP/2.0\r\n", Refusal::Head(HeadError::Malformed("not HTTP/1"))),
    ] {
        assert_eq!(forward(&format!("{line}\r\n")), Err(refusal), "{line}");
    }
}

#[test]
fn logins_and_sources() {
    let users = Users::new([("user", "secret")]).unwrap();
    let mut out = Vec::new();
    let head = b"CONNECT a.test:1 HTTP/1.1\r\nproxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\nX-Forwarded-For: unknown, 192.0.2.7, ::1\r\n\r\n";
    let incoming = read_request(head, Some(&users), &mut out).unwrap();
    assert_eq!(incoming.user.as_deref(), Some("user"));
    assert_eq!(incoming.source, Some([192, 0, 2, 7].into()));
    for (field, tried) in
        [("", None), ("Proxy-Authorization: Basic dXNlcjp4\r\n", Some("user".to_owned()))]
    {
        let head = format!("CONNECT a.test:1 HTTP/1.1\r\n{field}\r\n");
        let refusal = read_request(head.as_bytes(), Some(&users), &mut out).unwrap_err();
        assert!(refusal.answer().starts_with(b"HTTP/1.1 407 "));
        assert_eq!(refusal, Refusal::Unauthorized(tried));
    }
    assert!(out.is_empty());
}

#[test]
fn upgrades() {
    let (_, _, kind, head) = forward(
        "GET http://a.test/ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        kind,
        Kind::Forward { body: Body::Empty, head_only: false, idempotent: true, upgrade: true }
    );
    assert!(
        head.ends_with("Sec-WebSocket-Key: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        "{head}"
    );
    let (_, _, kind, head) = forward("GET http://a.test/ HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n").unwrap();
    assert_eq!((kind, head.as_str()), (get(Body::Empty), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"));

    let mut out = Vec::new();
    let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
    assert_eq!(read_response(head, &EXCHANGE, &mut out), Err(AnswerError::Switch));
    assert_eq!(
        read_response(head, &Exchange { upgrade: true, ..EXCHANGE }, &mut out),
        Ok(Answer::Switched)
    );
    assert_eq!(out, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\nConnection: Upgrade\r\n\r\n");
}

#[test]
fn responses() {
    let read = |head: &str, exchange: &Exchange| {
        let mut out = Vec::new();
        let answer = read_response(head.as_bytes(), exchange, &mut out)?;
        Ok::<_, AnswerError>((answer, String::from_utf8(out).unwrap()))
    };
    let keep =
        "Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nKeep-Alive: timeout=4\r\n\r\n";
    let last = |body, dechunk, keep_client, keep_origin| Answer::Final {
        body,
        dechunk,
        keep_client,
        keep_origin,
    };
    let chunked = || Body::Chunked(Chunks::default());
    let old = Exchange { minor: 0, keep_alive: false, ..EXCHANGE };
    let head = Exchange { head_only: true, ..EXCHANGE };
    for (input, exchange, answer, output) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nKeep-Alive: 5\r\nConnection: X\r\nX: 1\r\nA: b\r\n\r\n",
            &EXCHANGE,
            last(Body::Length(3), false, true, true),
            format!("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n{keep}"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            &EXCHANGE,
            last(chunked(), false, true, false),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{keep}"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &old,
            last(chunked(), true, false, true),
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200\r\n\r\n",
            &EXCHANGE,
            last(Body::UntilClose, false, false, false),
            "HTTP/1.1 200 \r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "HTTP/1.0 200 Fine\r\nContent-Length: 0\r\n\r\n",
            &EXCHANGE,
            last(Body::Empty, false, true, false),
            format!("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n{keep}"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            &head,
            last(Body::Empty, false, true, true),
            format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n{keep}"),
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            &EXCHANGE,
            last(Body::Empty, false, true, true),
            format!("HTTP/1.1 204 No Content\r\n{keep}"),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            &EXCHANGE,
            last(Body::Empty, false, true, true),
            format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n{keep}"),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n",
            &EXCHANGE,
            Answer::Interim,
            "HTTP/1.1 100 Continue\r\n\r\n".into(),
        ),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", &old, Answer::Interim, String::new()),
        (
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
            &EXCHANGE,
            last(Body::Empty, false, true, true),
            format!("HTTP/1.1 200 OK\r\nA: b   c\r\nContent-Length: 0\r\n{keep}"),
        ),
    ] {
        assert_eq!(read(input, exchange), Ok((answer, output)), "{input:?}");
    }
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ] {
        assert!(matches!(read(bad, &EXCHANGE), Err(AnswerError::Head(_))), "{bad:?}");
    }
}

#[test]
fn heads_end() {
    for (input, searched, end) in [
        (&b"GET x\r\n\r\nrest"[..], 0, Some(9)),
        (b"\r\n\r\nGET x\n\nrest", 0, Some(11)),
        (b"GET x\r\n\r\n", 8, Some(9)),
        (b"GET x\r\n\r", 0, None),
        (b"\r\n\r\n", 0, None),
        (b"", 0, None),
    ] {
        assert_eq!(find_head(input, searched), Ok(end), "{input:?}");
    }
    assert_eq!(find_head(&[b'a'; MAX_HEAD], 0), Err(HeadError::TooLarge));
    assert!(
        plausible_request(b"\r\nGE")
            && plausible_request(b"")
            && plausible_request(b"GET http://\xff")
    );
    assert!(
        !plausible_request(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            && !plausible_request(&[b'a'; 64])
    );
    let many = format!("GET http://a.test/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert_eq!(forward(&many), Err(Refusal::Head(HeadError::TooLarge)));
}

#[test]
fn connect_emit() {
    let emit = |options: &ConnectOptions<'_>, target| {
        let mut out = Vec::new();
        Connect::new(options)
            .unwrap()
            .emit(&target, &mut out)
            .map(|()| String::from_utf8(out).unwrap())
    };
    let target = Target::new(Host::Name("a.test"), 443);
    let plain = ConnectOptions::default();
    assert_eq!(
        emit(&plain, target).unwrap(),
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nUser-Agent: Go-http-client/1.1\r\nProxy-Connection: Keep-Alive\r\n\r\n"
    );
    let full = ConnectOptions {
        username: "u",
        password: "p",
        path: "/a b",
        headers: vec![
            ("x-b", "1"),
            ("X-A", "2\r\nEvil: 1"),
            ("X-B", "3"),
            ("user-agent", "me"),
            ("bad name", "x"),
        ],
    };
    assert_eq!(
        emit(&full, Target::new(Host::V6(std::net::Ipv6Addr::LOCALHOST), 80)).unwrap(),
        "CONNECT /a%20b HTTP/1.1\r\nHost: [::1]:80\r\nUser-Agent: me\r\nProxy-Authorization: Basic dTpw\r\nProxy-Connection: Keep-Alive\r\nX-A: 2  Evil: 1\r\nX-B: 1\r\nX-B: 3\r\n\r\n"
    );
    let host = ConnectOptions {
        headers: vec![("host", "front.test"), ("Proxy-Connection", "close"), ("User-Agent", "")],
        ..plain.clone()
    };
    assert_eq!(
        emit(&host, target).unwrap(),
        "CONNECT a.test:443 HTTP/1.1\r\nHost: front.test\r\nProxy-Connection: close\r\n\r\n"
    );
    let both = ConnectOptions { path: "/x", ..host.clone() };
    assert_eq!(emit(&both, target), Err(ConnectError::HostAndPath));
    let same = ConnectOptions { path: "/x", headers: vec![("Host", "a.test")], ..plain.clone() };
    assert!(
        emit(&same, target).unwrap().starts_with("CONNECT /x HTTP/1.1\r\nHost: a.test:443\r\n")
    );
    for (path, sent) in
        [("/a%2Fb", "/a%2Fb"), ("/a?b", "/a%3Fb"), ("/*", "/*"), ("x", "x"), ("/%41 ", "/A%20")]
    {
        assert!(
            emit(&ConnectOptions { path, ..plain.clone() }, target)
                .unwrap()
                .starts_with(&format!("CONNECT {sent} HTTP")),
            "{path}"
        );
    }
    assert!(Connect::new(&ConnectOptions { path: "/%4", ..plain }).is_err());
}

#[test]
fn connect_answers() {
    for (input, result) in [
        ("HTTP/1.1 200 OK\r\n\r\nrest", Ok(Some(19))),
        ("HTTP/1.0 200\r\nA: b\r\n\r\n", Ok(Some(22))),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(Some(44))),
        ("HTTP/1.1 200 OK\r\n", Ok(None)),
        ("HT", Ok(None)),
        ("HTTP/1.1 407 No\r\n\r\n", Err(ConnectError::Unauthorized)),
        ("HTTP/1.1 405 No\r\n\r\n", Err(ConnectError::Method)),
        ("HTTP/1.1 502 Bad\r\n\r\n", Err(ConnectError::Status(502))),
        ("HTTP/1.1 101 Up\r\n\r\n", Err(ConnectError::Status(101))),
        ("SSH-2.0", Err(ConnectError::Head(HeadError::Malformed("not an HTTP message")))),
    ] {
        assert_eq!(read_connect_answer(input.as_bytes(), 0), result, "{input:?}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(start in prop::sample::select(vec!["", "GET http://", "CONNECT ", "POST http://a/ HTTP/1.1\r\nTransfer-Encoding: ", "GET http://a/ HTTP/1.1\r\nConnection: a, b\r\n"]),
                            tail in vec(prop_oneof![any::<u8>(), prop::sample::select(&b" :/?#@[]%\r\n,;0a"[..])], 0..200)) {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend(tail);
        bytes.extend(b" HTTP/1.1\r\n\r\n");
        let mut out = Vec::new();
        if let Ok(Some(end)) = find_head(&bytes, 0) {
            if let Ok(incoming) = read_request(&bytes[..end], NOBODY, &mut out)
                && let Kind::Forward { .. } = incoming.kind {
                // What is passed on is itself one head, with exactly one Host.
                prop_assert_eq!(find_head(&out, 0), Ok(Some(out.len())));
                let text = String::from_utf8_lossy(&out).to_ascii_lowercase();
                prop_assert_eq!(text.matches("\r\nhost: ").count(), 1);
            }
            out.clear();
            let _ = read_response(&bytes[..end], &EXCHANGE, &mut out);
        }
        let _ = read_connect_answer(&bytes, 0);
        let _ = plausible_request(&bytes);
    }

    #[test]
    fn truncation_and_pieces(cut in 0usize..200) {
        let whole = b"GET http://a.test/path HTTP/1.1\r\nHost: a.test\r\nA: b\r\n\r\n";
        let cut = cut.min(whole.len());
        let found = find_head(&whole[..cut], 0).unwrap();
        prop_assert_eq!(found.is_some(), cut == whole.len());
        prop_assert_eq!(find_head(whole, cut).unwrap(), Some(whole.len()));
    }

    #[test]
    fn connect_round_trip(target in crate::socks::wire::any_target()) {
        let mut out = Vec::new();
        Connect::new(&ConnectOptions::default()).unwrap().emit(&target, &mut out).unwrap();
        let incoming = read_request(&out, NOBODY, &mut Vec::new()).unwrap();
        prop_assert_eq!(incoming.target, target);
    }
}
