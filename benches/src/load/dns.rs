//! DNS queries to a server under measurement, 64 on the way, and the server that it asks.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Counts, Load, nanos};
use crate::poll::{Flags, Poller};
use crate::scenario::UPSTREAM;

const CLIENTS: u16 = 4;
const WINDOW: u16 = 16;
/// A query that is not answered by then is lost, and another one takes its place.
const LOST: Duration = Duration::from_millis(500);
const SERVER: u64 = 1 << 32;
const HEADER: usize = 12;

/// Which queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A few names over and over, over UDP.
    Known,
    /// A new name each time, over UDP.
    Fresh,
    /// A few names over and over, over TCP.
    KnownTcp,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

struct Client {
    socket: Socket,
    /// When the query of each id was sent.
    sent: Vec<Instant>,
}

/// See the module.
pub(crate) struct Queries {
    ask: Ask,
    poller: Poller,
    clients: Vec<Client>,
    upstream: UdpSocket,
    next: u64,
    swept: Instant,
    counts: Counts,
}

impl Queries {
    pub(crate) fn open(server: SocketAddr, ask: Ask) -> Result<Self> {
        let poller = Poller::new()?;
        let upstream = UdpSocket::bind(("127.0.0.1", UPSTREAM)).context("bind the upstream")?;
        upstream.set_nonblocking(true)?;
        poller.add(&upstream, SERVER, Flags::IN)?;
        let mut clients = Vec::new();
        for index in 0..u64::from(CLIENTS) {
            let socket = if ask == Ask::KnownTcp {
                let stream = TcpStream::connect(server).context("connect")?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                poller.add(&stream, index, Flags::IN)?;
                Socket::Tcp(stream, Vec::new())
            } else {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(server)?;
                socket.set_nonblocking(true)?;
                poller.add(&socket, index, Flags::IN)?;
                Socket::Udp(socket)
            };
            clients.push(Client { socket, sent: vec![Instant::now(); WINDOW.into()] });
        }
        let (swept, counts) = (Instant::now(), Counts::default());
        let mut load = Self { ask, poller, clients, upstream, next: 0, swept, counts };
        for client in 0..clients_len(&load) {
            for id in 0..WINDOW {
                load.send(client, id)?;
            }
        }
        Ok(load)
    }

    fn send(&mut self, client: usize, id: u16) -> Result<()> {
        self.next += 1;
        let number = if self.ask == Ask::Fresh { self.next } else { self.next % 64 };
        let query = query(id, number);
        let client = &mut self.clients[client];
        client.sent[usize::from(id)] = Instant::now();
        match &mut client.socket {
            Socket::Udp(socket) => match send(&*socket, &query, SendFlags::NOSIGNAL) {
                Ok(_) | Err(Errno::AGAIN | Errno::CONNREFUSED | Errno::NOBUFS) => Ok(()),
                Err(e) => Err(e).context("send a query"),
            },
            Socket::Tcp(stream, _) => {
                let mut framed = (query.len() as u16).to_be_bytes().to_vec();
                framed.extend(query);
                stream.write_all(&framed).context("send a query over TCP")
            }
        }
    }

    /// Takes answers and sends as many queries again.
    fn turn(&mut self, index: usize) -> Result<()> {
        let mut buf = [0; 4096];
        // As much as the window holds; more would let the others wait for the fastest.
        let turns = if self.ask == Ask::KnownTcp { 1 } else { WINDOW };
        for _ in 0..turns {
            let client = &mut self.clients[index];
            let mut ids = Vec::new();
            match &mut client.socket {
                Socket::Udp(socket) => match recv(&*socket, &mut buf[..], RecvFlags::empty()) {
                    Ok((_, len)) => ids.extend(answered(&buf[..len])),
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::CONNREFUSED) => continue,
                    Err(e) => return Err(e).context("receive an answer"),
                },
                Socket::Tcp(stream, kept) => {
                    match recv(&*stream, &mut buf[..], RecvFlags::empty()) {
                        Ok((_, 0)) => bail!("a DNS connection was closed"),
                        Ok((_, len)) => kept.extend(&buf[..len]),
                        Err(Errno::AGAIN) => return Ok(()),
                        Err(e) => return Err(e).context("receive an answer over TCP"),
                    }
                    let mut at = 0;
                    while let Some(head) = kept.get(at..at + 2) {
                        let len = usize::from(u16::from_be_bytes([head[0], head[1]]));
                        let Some(message) = kept.get(at + 2..at + 2 + len) else { break };
                        ids.extend(answered(message));
                        at += 2 + len;
                    }
                    kept.drain(..at);
                }
            }
            for id in ids {
                if let Some(sent) = self.clients[index].sent.get(usize::from(id)) {
                    self.counts.latencies.push(nanos(*sent));
                    self.counts.units += 1;
                    self.send(index, id)?;
                }
            }
        }
        Ok(())
    }

    /// Answers what the server under measurement asks.
    fn serve(&mut self) -> Result<()> {
        let mut buf = [0; 2048];
        for _ in 0..64 {
            match self.upstream.recv_from(&mut buf) {
                Ok((len, from)) => {
                    let Some(answer) = answer(&buf[..len]) else { continue };
                    let _ = self.upstream.send_to(&answer, from);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(e).context("receive at the upstream"),
            }
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<()> {
        if self.ask == Ask::KnownTcp || self.swept.elapsed() < Duration::from_millis(50) {
            return Ok(());
        }
        self.swept = Instant::now();
        for client in 0..clients_len(self) {
            for id in 0..WINDOW {
                if self.clients[client].sent[usize::from(id)].elapsed() > LOST {
                    self.counts.lost += 1;
                    self.send(client, id)?;
                }
            }
        }
        Ok(())
    }
}

fn clients_len(load: &Queries) -> usize {
    load.clients.len()
}

impl Load for Queries {
    fn drive(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            for (token, _) in self.poller.wait(until, Duration::from_millis(20))? {
                match token {
                    SERVER => self.serve()?,
                    index => self.turn(index as usize)?,
                }
            }
            self.sweep()?;
        }
        Ok(())
    }

    fn take(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }
}

/// A query for the address of `n<number>.bench.test`, with recursion desired.
fn query(id: u16, number: u64) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [format!("n{number}").as_str(), "bench", "test"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The id of a good answer.
fn answered(message: &[u8]) -> Option<u16> {
    let good = message.len() > HEADER && message[2] & 0x80 != 0 && message[3] & 0x0f == 0;
    (good && message[7] > 0).then(|| u16::from_be_bytes([message[0], message[1]]))
}

/// One address for every question, valid for 300 s. What follows the question (EDNS) is left out.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let mut message = query.get(..HEADER + name + 5)?.to_vec();
    message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
    Some(message)
}
