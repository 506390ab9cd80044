//! What requests are let in.

use crosspoint_schema::{
    decode::{HeaderMap, Listable},
    options::HttpUpgradeTransport,
};

use super::server::UpgradeServer;
use crate::transport::head::{Decision, parse::Request};

fn server(host: &str, path: &str) -> UpgradeServer {
    let mut headers = HeaderMap::default();
    for (name, value) in [("x-server", "1"), ("Upgrade", "h2c"), ("host", "x")] {
        headers.0.insert(name.to_owned(), Listable(vec![value.to_owned()]));
    }
    let options = HttpUpgradeTransport { host: host.to_owned(), path: path.to_owned(), headers };
    UpgradeServer::new(&options)
}

/// The answer but for its date, or the status.
fn asked(server: &UpgradeServer, head: &str) -> Result<String, u16> {
    match server.decide(&Request::parse(head.as_bytes()).unwrap()) {
        Decision::Accept { answer, .. } => {
            let answer = String::from_utf8(answer).unwrap();
            Ok(answer.split("Date").next().unwrap().replace("\r\n", "|"))
        }
        Decision::Refuse { status, .. } => Err(status),
        Decision::End { .. } => panic!("no end"),
    }
}

/// What the reference answers to the same requests, but for the header of ours.
#[test]
fn requests() {
    let good =
        "GET /x?y HTTP/1.1\r\nHost: h.ex\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = "101 Switching Protocols|Connection: upgrade|Upgrade: websocket|X-Server: 1|";
    let strict = server("h.ex", "x");
    assert_eq!(asked(&strict, good), Ok(format!("HTTP/1.1 {answer}")));
    let old = good.replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(asked(&strict, &old), Ok(format!("HTTP/1.0 {answer}")));
    assert_eq!(asked(&strict, &good.replace("h.ex", "h.ex:80")), Err(400));
    assert!(asked(&server("", "/x"), &good.replace("h.ex", "any")).is_ok());
    for (from, to) in [
        ("/x?", "/y?"),
        ("GET", "POST"),
        (": Upgrade", ": keep-alive, Upgrade"),
        ("websocket", "h2c"),
        ("Upgrade: w", "Sec-WebSocket-Key: x\r\nUpgrade: w"),
    ] {
        assert_eq!(asked(&strict, &good.replace(from, to)), Err(404), "{to}");
    }
}
