//! Sniffing through the route table: what is read is given back, in order and whole.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::session::LegacyInbound;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n";

async fn read_all(flow: &mut Flow, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    match flow {
        Flow::Stream(stream) => {
            stream.read_exact(&mut out).await.unwrap();
        }
        Flow::Packet(_) => unreachable!(),
    }
    out
}

#[tokio::test]
async fn a_stream_is_sniffed_and_whole() {
    let rules = rules(
        r#"{"action": "sniff"}, {"action": "sniff", "sniffer": "tls"}, {"protocol": "http", "domain": "h.example", "outbound": "a"}"#,
    );
    let snapshot = snapshot(&rules);
    let mut session = session("tcp 192.0.2.1:80");
    let (mut flow, mut far) = silent(&session);
    // In two pieces, the second of which comes only after a moment.
    far.write_all(&REQUEST[..20]).await.unwrap();
    let rest = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        far.write_all(&REQUEST[20..]).await.unwrap();
        far.write_all(b"body").await.unwrap();
        far
    });
    let result = route(&snapshot, &mut session, &mut flow).await;
    assert_eq!(word(&result), "a");
    assert_eq!(session.protocol, Some("http"));
    assert_eq!(session.target.to_string(), "192.0.2.1:80");
    assert_eq!(read_all(&mut flow, REQUEST.len() + 4).await, [REQUEST, b"body"].concat());
    drop(rest.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_costs_the_timeout_once() {
    let rules = rules(
        r#"{"action": "sniff", "timeout": "2s"}, {"action": "sniff"}, {"action": "sniff", "sniffer": "tls"}"#,
    );
    let start = tokio::time::Instant::now();
    // The same list is not tried again, another one is.
    assert_eq!(decide(&rules, "tcp x:80").await.0, "final");
    assert_eq!(start.elapsed(), Duration::from_millis(2300));
    let start = tokio::time::Instant::now();
    for port in [25, 465, 587, 143, 993, 110, 995] {
        assert_eq!(decide(&rules, &format!("tcp x:{port}")).await.0, "final");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_second_list_sees_what_the_first_has_read() {
    let rules = rules(
        r#"{"action": "sniff", "sniffer": "ssh"}, {"action": "sniff", "sniffer": "http"}, {"protocol": "http", "outbound": "a"}"#,
    );
    let snapshot = snapshot(&rules);
    let mut session = session("tcp 192.0.2.1:80");
    let (mut flow, mut far) = silent(&session);
    far.write_all(REQUEST).await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "a");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(read_all(&mut flow, REQUEST.len()).await, REQUEST);
}

#[tokio::test(start_paused = true)]
async fn endless_nonsense_is_bounded_and_given_back() {
    let rules = rules(r#"{"action": "sniff"}, {"outbound": "a"}"#);
    let snapshot = snapshot(&rules);
    let mut session = session("tcp 192.0.2.1:80");
    let (near, mut far) = tokio::io::duplex(512);
    let mut flow = Flow::Stream(Box::new(near));
    // A header line that never ends keeps the HTTP sniffer asking for more.
    let writer = tokio::spawn(async move {
        let _ = far.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        let junk = [b'x'; 1000];
        for _ in 0..100 {
            if far.write_all(&junk).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "a");
    assert_eq!(session.protocol, None);
    let all = read_all(&mut flow, 19 + 100_000).await;
    assert!(all.starts_with(b"GET / ") && all.ends_with(b"xxx"));
    writer.await.unwrap();
}

#[tokio::test]
async fn old_sniff_replaces_the_destination() {
    let rules = rules(r#"{"domain": "h.example", "outbound": "a"}"#);
    for (replace, expected) in [(true, "h.example:80"), (false, "192.0.2.1:80")] {
        let snapshot = snapshot(&rules);
        let mut session = session("tcp 192.0.2.1:80");
        session.legacy = Some(Arc::new(LegacyInbound {
            sniff: true,
            sniff_override_destination: replace,
            ..Default::default()
        }));
        let (mut flow, mut far) = silent(&session);
        far.write_all(REQUEST).await.unwrap();
        assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "a");
        assert_eq!(session.target.to_string(), expected);
    }
}

/// Datagrams, one a poll.
struct Datagrams(VecDeque<(Vec<u8>, Target)>, bool);

impl PacketIo for Datagrams {
    fn poll_recv(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        match self.0.pop_front() {
            Some((payload, peer)) => {
                batch.push(&payload, peer);
                Poll::Ready(Ok(1))
            }
            None if self.1 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => Poll::Pending,
        }
    }

    fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        batch.clear();
        Poll::Ready(Ok(()))
    }
}

fn datagrams(payloads: &[&[u8]], end: bool) -> Flow {
    let peer = Target::new("192.0.2.1", 3478);
    let list = payloads.iter().map(|payload| (payload.to_vec(), peer.clone())).collect();
    Flow::Packet(Box::new(Datagrams(list, end)))
}

async fn receive(flow: &mut Flow) -> Vec<(Vec<u8>, String)> {
    let Flow::Packet(io) = flow else { unreachable!() };
    let mut batch = Batch::new();
    poll_fn(|cx| io.poll_recv(cx, &mut batch)).await.unwrap();
    (0..batch.len()).map(|i| (batch.payload(i).to_vec(), batch.peer(i).to_string())).collect()
}

/// A STUN binding request.
fn stun() -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend([7; 12]);
    message
}

#[tokio::test]
async fn datagrams_are_sniffed_and_mapped() {
    let rules = rules(
        r#"{"action": "sniff"}, {"protocol": "stun", "outbound": "a", "override_address": "192.0.2.99", "override_port": 1}"#,
    );
    let snapshot = snapshot(&rules);
    let mut session = session("udp 192.0.2.1:3478");
    let mut flow = datagrams(&[&stun(), b"second"], false);
    assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "a");
    // What was held back and what comes later both go to the new destination.
    assert_eq!(receive(&mut flow).await, [(stun(), "192.0.2.99:1".to_owned())]);
    assert_eq!(receive(&mut flow).await, [(b"second".to_vec(), "192.0.2.99:1".to_owned())]);
}

#[tokio::test]
async fn a_resolved_name_is_mapped() {
    let rules = rules(r#"{"action": "resolve"}"#);
    let snapshot = snapshot(&rules);
    let mut session = session("udp h.known:3478");
    let list = [(b"x".to_vec(), Target::new("h.known", 5))];
    let mut flow = Flow::Packet(Box::new(Datagrams(list.into(), false)));
    assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "final");
    assert_eq!(receive(&mut flow).await, [(b"x".to_vec(), "192.0.2.7:5".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn broken_and_silent_associations() {
    let rules = rules(r#"{"action": "sniff"}"#);
    let snapshot = snapshot(&rules);
    let mut broken = session("udp 192.0.2.1:3478");
    let result = route(&snapshot, &mut broken, &mut datagrams(&[], true)).await;
    assert!(result.is_err());
    let start = tokio::time::Instant::now();
    assert_eq!(decide(&rules, "udp 192.0.2.1:3478").await.0, "final");
    assert_eq!(start.elapsed(), Duration::from_millis(300));
}
