//! 64 bytes there and back on 16 connections, each as soon as the last came home.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Counts, Load, nanos};
use crate::poll::{Flags, Poller, ready};
use crate::socks::{self, Via};

const CONNECTIONS: usize = 16;
const SIZE: usize = 64;

/// See the module.
pub(crate) struct PingPong {
    poller: Poller,
    clients: Vec<(TcpStream, Instant, usize)>,
    servers: Vec<TcpStream>,
    counts: Counts,
}

impl PingPong {
    pub(crate) fn open(via: Option<Via>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let origin = listener.local_addr()?;
        let poller = Poller::new()?;
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for index in 0..CONNECTIONS as u64 {
            let client = socks::connect(via, origin)?;
            let (server, _) = listener.accept().context("accept from the proxy")?;
            server.set_nodelay(true)?;
            for stream in [&client, &server] {
                stream.set_nonblocking(true)?;
            }
            poller.add(&client, index, Flags::IN)?;
            poller.add(&server, CONNECTIONS as u64 + index, Flags::IN)?;
            send(&client, &[0; SIZE], SendFlags::NOSIGNAL)?;
            clients.push((client, Instant::now(), 0));
            servers.push(server);
        }
        Ok(Self { poller, clients, servers, counts: Counts::default() })
    }
}

impl Load for PingPong {
    fn drive(&mut self, until: Instant) -> Result<()> {
        let mut buf = [0; 4096];
        while Instant::now() < until {
            for (token, _) in self.poller.wait(until, Duration::from_millis(100))? {
                let token = token as usize;
                if let Some((stream, sent, got)) = self.clients.get_mut(token) {
                    let Some((_, len)) = ready(recv(&*stream, &mut buf[..], RecvFlags::empty()))?
                    else {
                        continue;
                    };
                    if len == 0 {
                        bail!("a ping-pong connection ended");
                    }
                    *got += len;
                    if *got >= SIZE {
                        *got = 0;
                        self.counts.latencies.push(nanos(*sent));
                        self.counts.units += 1;
                        *sent = Instant::now();
                        send(&*stream, &[0; SIZE], SendFlags::NOSIGNAL).context("send")?;
                    }
                } else if let Some(stream) = self.servers.get(token - CONNECTIONS) {
                    let Some((_, len)) = ready(recv(stream, &mut buf[..], RecvFlags::empty()))?
                    else {
                        continue;
                    };
                    send(stream, &buf[..len], SendFlags::NOSIGNAL).context("answer")?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }
}
