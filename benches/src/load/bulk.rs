//! Streams as fast as they go, in one direction. The receivers drop what comes without
//! copying it (`MSG_TRUNC`), so that a core of load is worth more than a core of proxy.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Counts, Load, hello};
use crate::poll::{Flags, Poller, ready};
use crate::socks::{self, Via};

/// Streams where nothing else is said.
pub(crate) const STREAMS: usize = 4;
const SEND: usize = 128 * 1024;
const RECEIVE: usize = 4 * 1024 * 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the origin to the client.
    Down,
    /// From the client to the origin.
    Up,
}

/// What goes through a stream before it is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Nothing,
    /// What looks like a handshake of TLS.
    Tls,
}

/// See the module.
pub(crate) struct Bulk {
    poller: Poller,
    senders: Vec<TcpStream>,
    receivers: Vec<TcpStream>,
    payload: Vec<u8>,
    room: Vec<u8>,
    bytes: u64,
}

impl Bulk {
    pub(crate) fn open(
        via: Option<Via>,
        direction: Direction,
        streams: usize,
        opening: Opening,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let origin = listener.local_addr()?;
        let poller = Poller::new()?;
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for index in 0..streams as u64 {
            let mut client = socks::connect(via, origin)?;
            let (mut server, _) = listener.accept().context("accept from the proxy")?;
            if opening == Opening::Tls {
                hello::greet(&mut client, &mut server)?;
            }
            let (sender, receiver) = match direction {
                Direction::Down => (server, client),
                Direction::Up => (client, server),
            };
            sender.set_nonblocking(true)?;
            receiver.set_nonblocking(true)?;
            poller.add(&sender, index, Flags::OUT)?;
            poller.add(&receiver, streams as u64 + index, Flags::IN)?;
            senders.push(sender);
            receivers.push(receiver);
        }
        let (payload, room) = (vec![0x5a; SEND], vec![0; RECEIVE]);
        Ok(Self { poller, senders, receivers, payload, room, bytes: 0 })
    }
}

impl Load for Bulk {
    fn drive(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            for (token, _) in self.poller.wait(until, Duration::from_millis(100))? {
                let token = token as usize;
                if let Some(sender) = self.senders.get(token) {
                    ready(send(sender, &self.payload, SendFlags::NOSIGNAL)).context("send")?;
                } else if let Some(receiver) = self.receivers.get(token - self.senders.len()) {
                    let got = ready(recv(receiver, &mut self.room[..], RecvFlags::TRUNC));
                    match got.context("receive")? {
                        Some((_, 0)) => bail!("a bulk stream ended"),
                        Some((_, len)) => self.bytes += len as u64,
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Counts {
        Counts { units: std::mem::take(&mut self.bytes), ..Counts::default() }
    }
}
