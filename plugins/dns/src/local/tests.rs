//! The system's files and servers, made up.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use crosspoint_kernel::{resolve::NO_TRAIL, snapshot::Namespace};
use crosspoint_resolver::message;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};

use super::*;
use crate::testkit::{build_cx, plane};

/// What a server does with a query over UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Truncates,
    /// From the right address, with the wrong id, and then the wrong question, and then the right answer.
    Confuses,
    Fails,
    Silent,
}

/// A server for UDP and TCP on one port. Tells over which network each query came.
struct Server {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<(&'static str, Message)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn reply(query: &Message, network: &str) -> Message {
    let mut reply = message::reply(query, ResponseCode::NoError);
    let text = RData::TXT(TXT::new(vec![network.to_owned()]));
    reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 7, text));
    reply
}

impl Server {
    async fn new(mood: Mood) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = seen.clone();
        let task = tokio::spawn(async move {
            let mut space = vec![0; 4096];
            loop {
                tokio::select! {
                    got = udp.recv_from(&mut space) => {
                        let (length, from) = got.unwrap();
                        let query = message::read(&space[..length]).unwrap();
                        note.lock().unwrap().push(("udp", query.clone()));
                        let mut answers = vec![reply(&query, "udp")];
                        match mood {
                            Mood::Answers => {}
                            Mood::Silent => continue,
                            Mood::Truncates => {
                                answers[0].metadata.truncation = true;
                                answers[0].answers.clear();
                            }
                            Mood::Fails => {
                                answers[0] = message::reply(&query, ResponseCode::ServFail);
                            }
                            Mood::Confuses => {
                                let (mut id, mut name) = (answers[0].clone(), answers[0].clone());
                                id.metadata.id ^= 1;
                                name.queries[0].set_name(Name::from_ascii("other.").unwrap());
                                answers.splice(0..0, [id, name]);
                            }
                        }
                        for answer in answers {
                            udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                        }
                    }
                    Ok((mut stream, _)) = tcp.accept() => {
                        let length = stream.read_u16().await.unwrap();
                        let mut query = vec![0; length.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        let query = message::read(&query).unwrap();
                        note.lock().unwrap().push(("tcp", query.clone()));
                        let right = reply(&query, "tcp");
                        let mut wrong = right.clone();
                        wrong.metadata.id ^= 1;
                        for answer in [wrong, right] {
                            let answer = answer.to_vec().unwrap();
                            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                            stream.write_all(&[&length[..], &answer].concat()).await.unwrap();
                        }
                    }
                }
            }
        });
        Self { addr, seen, task }
    }

    fn seen(&self) -> Vec<&'static str> {
        self.seen.lock().unwrap().drain(..).map(|(network, _)| network).collect()
    }
}

/// The plain client and a plan with short patience.
struct World(Plain);

impl World {
    fn new() -> Self {
        let cx = build_cx("local", plane(Namespace::default()));
        Self(Plain::new(&DialOptions::default(), dial::Setup::default(), &cx).unwrap())
    }

    async fn ask(&self, servers: &[SocketAddr], plan: Plan<'_>) -> Result<Message, String> {
        let query = query("Name.example.", RecordType::TXT).to_vec().unwrap();
        let query = Query { message: &query, trail: &NO_TRAIL };
        let asked = Asked::read(query).unwrap();
        let answer = self.0.ask(query, &asked, Plan { servers, ..plan }).await;
        let answer = message::read(&answer.map_err(|error| error.to_string())?).unwrap();
        assert_eq!(answer.metadata.id, 77, "the asker's id");
        assert_eq!(answer.queries[0].name().to_ascii(), "Name.example.");
        Ok(answer)
    }
}

const PLAN: Plan<'static> = Plan {
    servers: &[],
    first: 0,
    attempts: 2,
    timeout: Duration::from_millis(300),
    tcp: false,
    trust_ad: false,
};

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn text(answer: &Message) -> String {
    match &answer.answers[0].data {
        RData::TXT(text) => text.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_type_is_forwarded_with_our_size() {
    let (world, server) = (World::new(), Server::new(Mood::Answers).await);
    assert_eq!(text(&world.ask(&[server.addr], PLAN).await.unwrap()), "udp");
    let (_, sent) = server.seen.lock().unwrap().pop().unwrap();
    assert_eq!(sent.max_payload(), 1232);
    assert!(sent.metadata.recursion_desired && !sent.metadata.authentic_data);
    world.ask(&[server.addr], Plan { trust_ad: true, ..PLAN }).await.unwrap();
    assert!(server.seen.lock().unwrap().pop().unwrap().1.metadata.authentic_data);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let (world, server) = (World::new(), Server::new(Mood::Truncates).await);
    assert_eq!(text(&world.ask(&[server.addr], PLAN).await.unwrap()), "tcp");
    assert_eq!(server.seen(), ["udp", "tcp"]);
    assert_eq!(text(&world.ask(&[server.addr], Plan { tcp: true, ..PLAN }).await.unwrap()), "tcp");
    assert_eq!(server.seen(), ["tcp"]);
}

#[tokio::test]
async fn answers_of_strangers_do_not_count() {
    let (world, server) = (World::new(), Server::new(Mood::Confuses).await);
    assert_eq!(text(&world.ask(&[server.addr], PLAN).await.unwrap()), "udp");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_cannot_answer() {
    let world = World::new();
    let (good, bad) = (Server::new(Mood::Answers).await, Server::new(Mood::Fails).await);
    let silent = Server::new(Mood::Silent).await;
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.local_addr().unwrap()
    };
    for first in [bad.addr, silent.addr, closed] {
        assert_eq!(text(&world.ask(&[first, good.addr], PLAN).await.unwrap()), "udp");
    }
    assert_eq!(good.seen().len(), 3);
    // Rotated: the other one is the first now.
    world.ask(&[silent.addr, good.addr], Plan { first: 7, ..PLAN }).await.unwrap();
    assert_eq!((silent.seen().len(), good.seen().len()), (1, 1));
    // Nobody does better than an error code.
    let answer = world.ask(&[bad.addr, closed], PLAN).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Nobody at all: every server as often as the plan says.
    let error = world.ask(&[silent.addr, closed], PLAN).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
    assert_eq!(silent.seen().len(), 2);
    let error = world.ask(&[closed, silent.addr], PLAN).await.unwrap_err();
    assert!(error.contains("no answer from"), "{error}");
}

#[tokio::test]
async fn hosts_come_first_and_onion_names_stay_here() {
    let server = Server::new(Mood::Answers).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("hosts"), "192.0.2.1 box.example\n").unwrap();
    // The port of the file is 53: a server on it cannot be made up here, and is not needed.
    std::fs::write(path("resolv.conf"), "nameserver 192.0.2.1\noptions timeout:1 attempts:1\n")
        .unwrap();
    let local = Local {
        hosts: hosts::watch(&path("hosts")),
        resolv: resolv::watch(&path("resolv.conf")),
        plain: World::new().0,
        turn: AtomicUsize::new(0),
    };
    let ask = async |name: &str, kind| {
        let query = query(name, kind).to_vec().unwrap();
        let answer = local.answer(Query { message: &query, trail: &NO_TRAIL }).await.unwrap();
        message::read(&answer).unwrap()
    };
    let found = ask("BOX.example.", RecordType::A).await;
    assert_eq!(
        message::addresses(&found).collect::<Vec<_>>(),
        ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let other = ask("box.example.", RecordType::AAAA).await;
    assert_eq!((other.metadata.response_code, other.answers.len()), (ResponseCode::NoError, 0));
    let onion = ask("x.Onion.", RecordType::A).await;
    assert_eq!(onion.metadata.response_code, ResponseCode::NXDomain);
    assert!(server.seen().is_empty());
}
