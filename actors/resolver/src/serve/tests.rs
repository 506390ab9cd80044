use std::{net::SocketAddr, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, Kind,
    addr::Target,
    component::Incarnation,
    flow::{Batch, Flow, PacketIo},
    resolve::{Ask, Lookup, Resolve, ResolveError},
    session::{Network, Session},
    snapshot::{Plane, Snapshot},
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::Instant,
};

use super::{IDLE, flow};

/// Answers by the first label of the name.
struct Fixed;

fn reply(message: &[u8], records: u8) -> Vec<u8> {
    let query = Message::from_vec(message).unwrap();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.response_code = ResponseCode::NoError;
    for n in 0..records {
        let data = RData::A(rdata::A([192, 0, 2, n].into()));
        reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
    }
    reply.queries = query.queries;
    reply.to_vec().unwrap()
}

fn first_label(message: &[u8]) -> String {
    let query = Message::from_vec(message).unwrap();
    let name = query.queries[0].name().to_string();
    name.split('.').next().unwrap().to_owned()
}

impl Resolve for Fixed {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<std::net::IpAddr>, ResolveError>> {
        Box::pin(async move { Err(ResolveError::NotFound { name: lookup.name.into() }) })
    }

    fn exchange_now(&self, ask: Ask<'_>, out: &mut Vec<u8>) -> bool {
        let now = first_label(ask.message) == "now";
        if now {
            out.extend_from_slice(&reply(ask.message, 1));
        }
        now
    }

    fn exchange<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Vec<u8>, ResolveError>> {
        Box::pin(async move {
            let name = first_label(ask.message);
            match name.as_str() {
                "big" => return Ok(reply(ask.message, 100)),
                "slow" => tokio::time::sleep(Duration::from_secs(3)).await,
                "never" => std::future::pending().await,
                "drop" => return Err(ResolveError::Dropped),
                "fail" => return Err(ResolveError::NoServer("s".into())),
                "panic" => panic!("told to"),
                _ => {}
            }
            Ok(reply(ask.message, 1))
        })
    }
}

fn plane() -> Plane {
    Plane::new(Snapshot { generation: 1, resolver: Arc::new(Fixed), ..Snapshot::empty() })
}

fn session(network: Network) -> Box<Session> {
    let me = Incarnation { kind: Kind::Inbound, type_name: "t", tag: "t".into(), epoch: 1 };
    let source: SocketAddr = "192.0.2.7:5000".parse().unwrap();
    Session::new(1, Arc::new(me), network, source, Target::unspecified())
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{name}.example.")).unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

async fn read(client: &mut DuplexStream) -> Option<(u16, ResponseCode, bool, usize)> {
    let length = client.read_u16().await.ok()?;
    let mut message = vec![0; length.into()];
    client.read_exact(&mut message).await.ok()?;
    Some(said(&message))
}

fn said(message: &[u8]) -> (u16, ResponseCode, bool, usize) {
    let answer = Message::from_vec(message).unwrap();
    let head = &answer.metadata;
    (head.id, head.response_code, head.truncation, answer.answers.len())
}

/// Serves one side of a stream; the other is the client's.
fn stream() -> (DuplexStream, tokio::task::JoinHandle<std::io::Result<()>>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(async move {
        flow(&session(Network::Tcp), Flow::Stream(Box::new(server)), &plane()).await
    });
    (client, served)
}

const OK: ResponseCode = ResponseCode::NoError;

#[tokio::test(start_paused = true)]
async fn streams_answer_as_answers_come() {
    let (mut client, served) = stream();
    let mut all = Vec::new();
    for (id, name) in [(1, "slow"), (2, "now"), (3, "fail"), (4, "later"), (5, "panic"), (6, "big")]
    {
        all.extend(framed(&query(id, name)));
    }
    // In pieces that end anywhere.
    for piece in all.chunks(7) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(read(&mut client).await.unwrap());
    }
    assert_eq!(answers[0], (2, OK, false, 1));
    assert_eq!(answers[5], (1, OK, false, 1));
    for answer in [
        (3, ResponseCode::ServFail, false, 0),
        (4, OK, false, 1),
        (5, ResponseCode::ServFail, false, 0),
        (6, OK, false, 100),
    ] {
        assert!(answers.contains(&answer), "{answer:?} in {answers:?}");
    }
    let idle = Instant::now();
    assert_eq!(read(&mut client).await, None);
    assert_eq!(idle.elapsed(), IDLE);
    assert!(served.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_said_all_gets_its_answers() {
    let (mut client, served) = stream();
    client.write_all(&framed(&query(1, "slow"))).await.unwrap();
    client.write_all(&[0, 40, 1]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read(&mut client).await, Some((1, OK, false, 1)));
    assert_eq!(read(&mut client).await, None);
    assert!(served.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_query_ends_a_stream() {
    let mut answer = query(1, "now");
    answer[2] |= 0x80;
    for bad in [vec![0, 0], framed(b"garbage"), framed(&answer)] {
        let (mut client, served) = stream();
        client.write_all(&framed(&query(1, "slow"))).await.unwrap();
        client.write_all(&bad).await.unwrap();
        client.write_all(&framed(&query(2, "now"))).await.unwrap();
        assert_eq!(read(&mut client).await, Some((1, OK, false, 1)));
        assert_eq!(read(&mut client).await, None);
        assert!(served.await.unwrap().is_err());
    }
    let (mut client, served) = stream();
    client.write_all(&framed(&query(1, "drop"))).await.unwrap();
    assert_eq!(read(&mut client).await, None);
    assert!(served.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_served_for_ever() {
    let (mut client, served) = stream();
    let many = framed(&query(1, "big")).repeat(100);
    let written = tokio::spawn(async move {
        while client.write_all(&many).await.is_ok() {}
        client
    });
    let start = Instant::now();
    assert!(served.await.unwrap().is_ok());
    assert!(start.elapsed() <= IDLE * 6, "{:?}", start.elapsed());
    drop(written.await);
}

/// A stream that trickles is not kept for ever either.
#[tokio::test(start_paused = true)]
async fn half_a_query_is_waited_for_as_long_as_a_whole_one() {
    let (mut client, served) = stream();
    let start = Instant::now();
    for byte in framed(&query(1, "now")).into_iter().take(12) {
        if client.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(served.await.unwrap().is_ok());
    assert!(start.elapsed() <= IDLE + Duration::from_secs(2), "{:?}", start.elapsed());
}

struct Wire {
    incoming: mpsc::UnboundedReceiver<Vec<u8>>,
    sent: mpsc::UnboundedSender<(Vec<u8>, Target)>,
}

fn server() -> Target {
    Target::new("198.51.100.1", 53)
}

impl PacketIo for Wire {
    fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.incoming.poll_recv(cx).map(|packet| match packet {
            Some(packet) => {
                batch.push(&packet, server());
                Ok(1)
            }
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        })
    }

    fn poll_send(
        &mut self,
        _: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> std::task::Poll<std::io::Result<()>> {
        for at in 0..batch.len() {
            let _ = self.sent.send((batch.payload(at).to_vec(), batch.peer(at).clone()));
        }
        batch.clear();
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_answered_side_by_side() {
    let (send, incoming) = mpsc::unbounded_channel();
    let (sent, mut answers) = mpsc::unbounded_channel();
    let served = tokio::spawn(async move {
        let wire = Wire { incoming, sent };
        flow(&session(Network::Udp), Flow::Packet(Box::new(wire)), &plane()).await
    });
    for (id, name) in [(1, "slow"), (2, "drop"), (3, "fail"), (4, "big"), (5, "now"), (6, "panic")]
    {
        send.send(query(id, name)).unwrap();
    }
    send.send(b"garbage".to_vec()).unwrap();
    let start = Instant::now();
    let mut got = Vec::new();
    for _ in 0..5 {
        let (message, from) = answers.recv().await.unwrap();
        assert_eq!(from, server());
        assert!(message.len() <= 512);
        got.push(said(&message));
    }
    assert_eq!(got.last(), Some(&(1, OK, false, 1)));
    got.sort_unstable_by_key(|answer| answer.0);
    let fail = ResponseCode::ServFail;
    let big = got[2].3;
    assert!(big > 25 && got[2].2, "{got:?}");
    assert_eq!(
        got[1..],
        [(3, fail, false, 0), (4, OK, true, big), (5, OK, false, 1), (6, fail, false, 0)]
    );
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert!(served.await.unwrap().is_ok());
    assert_eq!(start.elapsed(), Duration::from_secs(3) + IDLE);
}

#[tokio::test(start_paused = true)]
async fn too_many_queries_wait_in_front_of_us() {
    let (send, incoming) = mpsc::unbounded_channel();
    let (sent, mut answers) = mpsc::unbounded_channel();
    let served = tokio::spawn(async move {
        let wire = Wire { incoming, sent };
        flow(&session(Network::Udp), Flow::Packet(Box::new(wire)), &plane()).await
    });
    for id in 0..2000 {
        send.send(query(id, "never")).unwrap();
    }
    send.send(query(2000, "now")).unwrap();
    // Those that wait have a limit, after which they fail and others have their turn.
    let mut failed = 0;
    while let Some((message, _)) = answers.recv().await {
        match said(&message) {
            (2000, OK, ..) => break,
            (_, ResponseCode::ServFail, ..) => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(failed >= 1700, "{failed}");
    drop(send);
    assert!(served.await.unwrap().is_ok());
}
