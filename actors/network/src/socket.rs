//! Sockets to the system.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
    sockopt,
};
use tokio::{io::Interest, net::UdpSocket};

use crate::wire::{self, Dump, Message};

/// Room for one datagram: the system sends no larger ones.
const DATAGRAM: usize = 64 << 10;
/// Room for changes that come while nobody reads.
const QUEUE: usize = 256 << 10;
/// The system answers at once, or something is very wrong.
const ANSWER: Duration = Duration::from_secs(5);
/// How often to ask again for an answer that is not of one moment.
const ATTEMPTS: usize = 5;

fn open(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    // No protocol is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Tells of changes.
pub(crate) struct Events {
    /// Any kind of socket can be waited for in this one, which is only the handle of it.
    socket: UdpSocket,
    buffer: Box<[u8]>,
}

impl Events {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open(SocketFlags::NONBLOCK, wire::GROUPS)?;
        // Without more room a burst is noticed all the same, by its overflow.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, QUEUE);
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, buffer: vec![0; 8 << 10].into() })
    }

    /// Resolves when something has changed that matters here. May be dropped at any time.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let Self { socket, buffer } = self;
        loop {
            let read = socket.async_io(Interest::READABLE, || {
                // Messages that are cut here are large and still begin as those that matter.
                Ok(rustix::net::recv(&*socket, &mut **buffer, RecvFlags::empty())?.0)
            });
            match read.await {
                Ok(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    if length == buffer.len() || wire::messages(datagram).any(|(_, m)| matters(&m))
                    {
                        return Ok(());
                    }
                }
                // Changes were lost: that is a change.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn matters(message: &Message) -> bool {
    matches!(message, Message::Link { .. } | Message::Address { .. } | Message::DefaultRoute { .. })
}

/// Asks questions and has things done. Blocks for as long as the system takes.
pub(crate) struct Questions {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Questions {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open(SocketFlags::empty(), 0)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM].into() })
    }

    /// The whole answer.
    pub(crate) fn ask(&mut self, what: Dump) -> io::Result<Vec<Message>> {
        for _ in 0..ATTEMPTS {
            if let Some(answer) = self.attempt(what)? {
                return Ok(answer);
            }
        }
        Err(io::Error::other("the network keeps changing"))
    }

    /// Has something done that is answered with an acknowledgement.
    pub(crate) fn act(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        self.sequence += 1;
        self.exchange(&request(self.sequence)).map(drop)
    }

    fn attempt(&mut self, what: Dump) -> io::Result<Option<Vec<Message>>> {
        self.sequence += 1;
        self.exchange(&wire::request(what, self.sequence))
    }

    /// Sends a request of the current sequence number. `None` if the answer is not of one moment.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Option<Vec<Message>>> {
        rustix::net::send(self.socket.as_fd(), request, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            let read =
                rustix::net::recv(self.socket.as_fd(), &mut *self.buffer, RecvFlags::empty());
            let length = match read {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for (sequence, message) in wire::messages(self.buffer.get(..length).unwrap_or_default())
            {
                if sequence != self.sequence {
                    continue; // The rest of an answer that was given up.
                }
                match message {
                    Message::Done { torn } => return Ok((!torn).then_some(answer)),
                    Message::Error(number) => return Err(io::Error::from_raw_os_error(number)),
                    // Not kept: there may be a million of them.
                    Message::OtherRoute | Message::Other => {}
                    message => answer.push(message),
                }
            }
        }
    }
}
