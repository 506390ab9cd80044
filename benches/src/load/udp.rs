//! 1200 bytes through SOCKS5 UDP and back: four associations with 32 datagrams on the way each.

use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use super::{Counts, Load, nanos};
use crate::poll::{Flags, Poller};
use crate::socks::{self, UDP_HEADER, Via};

const ASSOCIATIONS: usize = 4;
const WINDOW: usize = 32;
const SIZE: usize = 1200;
/// A datagram that is not back by then is lost, and its place in the window is used again.
const LOST: Duration = Duration::from_millis(200);
/// Datagrams taken from one socket before the others have their turn.
const TURN: usize = 64;

struct Flow {
    socket: UdpSocket,
    /// Ends the association when it is closed.
    _control: Option<TcpStream>,
    /// Number and time of the datagram in each place of the window.
    window: Vec<(u64, Instant)>,
    message: Vec<u8>,
    header: usize,
    next: u64,
}

/// See the module.
pub(crate) struct Datagrams {
    poller: Poller,
    flows: Vec<Flow>,
    echo: UdpSocket,
    swept: Instant,
    counts: Counts,
}

impl Datagrams {
    pub(crate) fn open(via: Option<Via>) -> Result<Self> {
        let poller = Poller::new()?;
        let echo = UdpSocket::bind("127.0.0.1:0")?;
        enlarge(&echo);
        echo.set_nonblocking(true)?;
        let to = echo.local_addr()?;
        poller.add(&echo, ASSOCIATIONS as u64, Flags::IN)?;
        let mut flows = Vec::new();
        for index in 0..ASSOCIATIONS as u64 {
            let (socket, control, header) = match via {
                Some(via) => {
                    let (control, socket) = socks::associate(via.proxy)?;
                    (socket, Some(control), UDP_HEADER)
                }
                None => {
                    let socket = UdpSocket::bind("127.0.0.1:0")?;
                    socket.connect(to)?;
                    (socket, None, 0)
                }
            };
            enlarge(&socket);
            socket.set_nonblocking(true)?;
            poller.add(&socket, index, Flags::IN)?;
            let mut message = vec![0; header];
            if let Some(via) = via {
                // Bytes 3…: type, address and port, as in a request.
                message[3..].copy_from_slice(&socks::request(1, via.target(to))[3..]);
            }
            message.resize(header + SIZE, 0x5a);
            let window = vec![(0, Instant::now()); WINDOW];
            flows.push(Flow { socket, _control: control, window, message, header, next: 1 });
        }
        for flow in &mut flows {
            (0..WINDOW).try_for_each(|place| flow.send(place))?;
        }
        let counts = Counts::default();
        Ok(Self { poller, flows, echo, swept: Instant::now(), counts })
    }

    /// Answers what has come to the origin.
    fn serve(&mut self) -> Result<()> {
        let mut buf = [0; 2048];
        for _ in 0..TURN {
            match self.echo.recv_from(&mut buf) {
                Ok((len, from)) => {
                    // A full buffer or an association that is gone: the datagram is lost.
                    let _ = self.echo.send_to(&buf[..len], from);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(e).context("receive at the origin"),
            }
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<()> {
        if self.swept.elapsed() < Duration::from_millis(20) {
            return Ok(());
        }
        self.swept = Instant::now();
        for flow in &mut self.flows {
            for place in 0..WINDOW {
                if flow.window[place].1.elapsed() > LOST {
                    self.counts.lost += 1;
                    flow.send(place)?;
                }
            }
        }
        Ok(())
    }
}

impl Flow {
    /// Puts the next datagram into a place of the window and sends it.
    fn send(&mut self, place: usize) -> Result<()> {
        let at = self.header;
        self.message[at..at + 8].copy_from_slice(&self.next.to_be_bytes());
        self.message[at + 8..at + 16].copy_from_slice(&(place as u64).to_be_bytes());
        self.window[place] = (self.next, Instant::now());
        self.next += 1;
        match send(&self.socket, &self.message, SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::AGAIN | Errno::CONNREFUSED | Errno::NOBUFS) => Ok(()),
            Err(e) => Err(e).context("send a datagram"),
        }
    }

    /// Takes what has come back and sends as much again.
    fn turn(&mut self, counts: &mut Counts) -> Result<()> {
        let mut buf = [0; 2048];
        for _ in 0..TURN {
            let len = match recv(&self.socket, &mut buf[..], RecvFlags::empty()) {
                Ok((_, len)) => len,
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNREFUSED) => continue,
                Err(e) => return Err(e).context("receive a datagram"),
            };
            if len != self.header + SIZE {
                continue;
            }
            let number =
                |at: usize| buf[at..at + 8].iter().fold(0, |n, &b| (n << 8) | u64::from(b));
            let (id, place) = (number(self.header), number(self.header + 8) as usize);
            // What comes after it was given up is not counted twice.
            if self.window.get(place).is_some_and(|slot| slot.0 == id) {
                counts.latencies.push(nanos(self.window[place].1));
                counts.units += 1;
                self.send(place)?;
            }
        }
        Ok(())
    }
}

impl Load for Datagrams {
    fn drive(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            for (token, _) in self.poller.wait(until, Duration::from_millis(20))? {
                match self.flows.get_mut(token as usize) {
                    Some(flow) => flow.turn(&mut self.counts)?,
                    None => self.serve()?,
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

/// The load's own queues must not be what loses datagrams.
fn enlarge(socket: &UdpSocket) {
    let size = 8 << 20;
    if sockopt::set_socket_recv_buffer_size_force(socket, size).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, size);
    }
}
