//! Connections that were opened and stay open: through the proxy to an origin of ours.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use crate::poll::ready;
use crate::socks::{self, Via};

/// See the module.
pub(crate) struct Crowd {
    listener: TcpListener,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Crowd {
    pub(crate) fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, pairs: Vec::new() })
    }

    /// Opens connections, each with one byte there and back, until there are `count` or one fails.
    /// Returns how many there are.
    pub(crate) fn grow(&mut self, via: Via, count: usize) -> usize {
        while self.pairs.len() < count {
            match self.open(via) {
                Ok(pair) => self.pairs.push(pair),
                Err(_) => break,
            }
        }
        self.pairs.len()
    }

    fn open(&self, via: Via) -> Result<(TcpStream, TcpStream)> {
        let mut client = socks::connect(Some(via), self.listener.local_addr()?)?;
        // Many protocols send their request with the first payload, or wait long for it.
        let mut byte = [7];
        client.write_all(&byte)?;
        let begun = Instant::now();
        let server = loop {
            if let Some(fd) = ready(accept_with(&self.listener, SocketFlags::CLOEXEC))? {
                break TcpStream::from(fd);
            }
            if begun.elapsed() > Duration::from_secs(2) {
                bail!("the proxy does not come to the origin");
            }
        };
        (&server).read_exact(&mut byte)?;
        (&server).write_all(&byte)?;
        client.read_exact(&mut byte)?;
        for stream in [&client, &server] {
            stream.set_nonblocking(true)?;
        }
        Ok((client, server))
    }

    /// Sends a byte through every connection, and returns how many are broken: those through
    /// which it does not come in two seconds.
    pub(crate) fn broken(&self) -> Result<usize> {
        for (client, _) in &self.pairs {
            // An error here shows below as well.
            let _ = send(client, &[1], SendFlags::NOSIGNAL);
        }
        let end = Instant::now() + Duration::from_secs(2);
        let (mut missing, mut broken) = ((0..self.pairs.len()).collect::<Vec<_>>(), 0);
        let mut buf = [0; 64];
        while !missing.is_empty() && Instant::now() < end {
            missing.retain(|&index| {
                match recv(&self.pairs[index].1, &mut buf[..], RecvFlags::empty()) {
                    Ok((_, 1..)) => false,
                    Err(Errno::AGAIN) => true,
                    _ => {
                        broken += 1;
                        false
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(broken + missing.len())
    }

    /// Forgets the broken ones and fills up to `count` again.
    pub(crate) fn heal(&mut self, via: Via, count: usize) -> Result<()> {
        let mut buf = [0; 64];
        self.pairs.retain(|(client, server)| {
            let lives = |stream: &TcpStream, buf: &mut [u8]| {
                !matches!(recv(stream, buf, RecvFlags::PEEK), Ok((_, 0)) | Err(Errno::CONNRESET))
            };
            lives(client, &mut buf) && lives(server, &mut buf)
        });
        ensure!(self.grow(via, count) == count, "the proxy takes no new connection");
        Ok(())
    }

    /// Both ends of each connection.
    pub(crate) fn pairs(&self) -> &[(TcpStream, TcpStream)] {
        &self.pairs
    }

    /// A connection of its own: that new ones are taken.
    pub(crate) fn probe(&self, via: Via) -> Result<()> {
        self.open(via).map(drop).context("a new connection")
    }
}
