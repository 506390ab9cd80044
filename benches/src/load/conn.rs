//! New connections, 32 at once: connect, SOCKS5 handshake in its two round trips, one byte there
//! and back, close. Latency is of the whole.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, connect, recv, send,
    socket_with, sockopt,
};

use super::{Counts, Load, nanos};
use crate::poll::{Flags, Poller, ready};
use crate::socks::{GREETING, REPLY, Via, request, request_name};

const AT_ONCE: u64 = 32;
/// Several origins, so that the proxy does not run out of ports towards one.
const ORIGINS: usize = 8;
const LISTENER: u64 = 1 << 32;
const SERVER: u64 = 1 << 33;
/// A connection that takes longer has failed.
const TOO_LONG: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connecting,
    Method,
    Reply,
    Byte,
}

struct Client {
    fd: OwnedFd,
    step: Step,
    got: usize,
    begun: Instant,
}

/// See the module.
pub(crate) struct Connections {
    poller: Poller,
    via: Option<Via>,
    /// Ask for the origin by this name.
    name: Option<&'static str>,
    origins: Vec<(TcpListener, SocketAddr)>,
    clients: Vec<Option<Client>>,
    servers: Vec<Option<OwnedFd>>,
    free: Vec<usize>,
    opened: usize,
    swept: Instant,
    counts: Counts,
}

impl Connections {
    /// Connections through a proxy, to an address or, with `name`, to a name that stands for loopback.
    pub(crate) fn open(via: Option<Via>, name: Option<&'static str>) -> Result<Self> {
        let poller = Poller::new()?;
        let mut origins = Vec::new();
        for index in 0..ORIGINS {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            poller.add(&listener, LISTENER + index as u64, Flags::IN)?;
            let addr = listener.local_addr()?;
            origins.push((listener, addr));
        }
        let mut load = Self {
            poller,
            via,
            name,
            origins,
            clients: Vec::new(),
            servers: Vec::new(),
            free: Vec::new(),
            opened: 0,
            swept: Instant::now(),
            counts: Counts::default(),
        };
        for index in 0..AT_ONCE as usize {
            load.clients.push(None);
            load.dial(index)?;
        }
        Ok(load)
    }

    fn dial(&mut self, index: usize) -> Result<()> {
        self.opened += 1;
        let target = self.origins[self.opened % ORIGINS].1;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        let begun = Instant::now();
        match connect(&fd, &self.via.map_or(target, |via| via.proxy)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            // Refused: counted, and tried again when the sweep comes by.
            Err(_) => {
                self.counts.lost += 1;
                self.clients[index] = None;
                return Ok(());
            }
        }
        // Edge-triggered: one call of epoll_ctl serves the whole life of the connection.
        self.poller.add(&fd, index as u64, Flags::IN | Flags::OUT | Flags::ET)?;
        self.clients[index] = Some(Client { fd, step: Step::Connecting, got: 0, begun });
        Ok(())
    }

    /// Moves one connection as far as it goes; true when it is done, well or not.
    fn advance(&mut self, index: usize) -> bool {
        let target = self.origins[self.opened % ORIGINS].1;
        let Some(client) = self.clients[index].as_mut() else { return false };
        let mut buf = [0; 64];
        loop {
            if client.step == Step::Connecting {
                let first: &[u8] = if self.via.is_some() { &GREETING } else { &[1] };
                match send(&client.fd, first, SendFlags::NOSIGNAL) {
                    Ok(_) => {}
                    Err(Errno::AGAIN | Errno::NOTCONN) => return false,
                    Err(_) => break,
                }
                client.step = if self.via.is_some() { Step::Method } else { Step::Byte };
            }
            let wanted = match client.step {
                Step::Method => 2,
                Step::Reply => REPLY,
                _ => 1,
            };
            match recv(&client.fd, &mut buf[..wanted - client.got], RecvFlags::empty()) {
                Ok((_, 0)) => break,
                Ok((_, len)) => client.got += len,
                Err(Errno::AGAIN) => return false,
                Err(_) => break,
            }
            if client.got < wanted {
                continue;
            }
            client.got = 0;
            let next = match client.step {
                Step::Method => {
                    let sent = match self.name {
                        Some(name) => send(
                            &client.fd,
                            &request_name(name, target.port()),
                            SendFlags::NOSIGNAL,
                        ),
                        None => {
                            let target = self.via.map_or(target, |via| via.target(target));
                            send(&client.fd, &request(1, target), SendFlags::NOSIGNAL)
                        }
                    };
                    (Step::Reply, sent)
                }
                // A refusal has the same length; its second byte says so.
                Step::Reply if buf[1] != 0 => break,
                Step::Reply => (Step::Byte, send(&client.fd, &[1], SendFlags::NOSIGNAL)),
                _ => {
                    self.counts.latencies.push(nanos(client.begun));
                    self.counts.units += 1;
                    return true;
                }
            };
            client.step = next.0;
            if next.1.is_err() {
                break;
            }
        }
        self.counts.lost += 1;
        true
    }

    fn accept(&mut self, origin: usize) -> Result<()> {
        let Some((listener, _)) = self.origins.get(origin) else { return Ok(()) };
        while let Some(fd) =
            ready(accept_with(listener, SocketFlags::NONBLOCK)).context("accept")?
        {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.servers.push(None);
                self.servers.len() - 1
            });
            self.poller.add(&fd, SERVER + slot as u64, Flags::IN)?;
            self.servers[slot] = Some(fd);
        }
        Ok(())
    }

    fn serve(&mut self, slot: usize) {
        let Some(fd) = self.servers.get(slot).and_then(Option::as_ref) else { return };
        let mut buf = [0; 16];
        match recv(fd, &mut buf[..], RecvFlags::empty()) {
            Ok((_, len @ 1..)) => {
                // A client that is gone shows as the end of its direction.
                let _ = send(fd, &buf[..len], SendFlags::NOSIGNAL);
            }
            Err(Errno::AGAIN) => {}
            _ => {
                self.servers[slot] = None;
                self.free.push(slot);
            }
        }
    }

    /// Gives up connections that hang, and dials again those that were refused.
    fn sweep(&mut self) -> Result<()> {
        if self.swept.elapsed() < Duration::from_millis(20) {
            return Ok(());
        }
        self.swept = Instant::now();
        for index in 0..self.clients.len() {
            match &self.clients[index] {
                Some(client) if client.begun.elapsed() > TOO_LONG => {
                    self.counts.lost += 1;
                    self.dial(index)?;
                }
                None => self.dial(index)?,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Load for Connections {
    fn drive(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            for (token, _) in self.poller.wait(until, Duration::from_millis(20))? {
                match token {
                    SERVER.. => self.serve((token - SERVER) as usize),
                    LISTENER.. => self.accept((token - LISTENER) as usize)?,
                    index => {
                        if self.advance(index as usize) {
                            self.dial(index as usize)?;
                        }
                    }
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
