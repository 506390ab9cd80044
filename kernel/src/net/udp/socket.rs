//! One UDP socket as an association.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use tokio::net::UdpSocket;

use super::{inbox::Inbox, offload::Offload};
use crate::{
    addr::Target,
    flow::{Batch, PacketIo},
};

/// Errors in a row after which an unconnected socket counts as broken.
const ERRORS: usize = 64;

/// A UDP socket of our own: what an outbound sends datagrams through.
#[derive(Debug)]
pub struct UdpPackets {
    socket: UdpSocket,
    offload: Offload,
    inbox: Inbox,
    /// Where a connected socket leads, and under which name its packets are handed up.
    connected: Option<(SocketAddr, Target)>,
}

impl UdpPackets {
    /// An association that sends each packet to its own peer. Packets that name a domain are dropped:
    /// put [`ResolvingPackets`](super::ResolvingPackets) around it.
    ///
    /// # Errors
    /// The system refuses the options that batches need.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let offload = Offload::new(&socket, false)?;
        Ok(Self { socket, offload, inbox: Inbox::default(), connected: None })
    }

    /// An association on a connected socket: every packet goes to its peer, whatever it names, and
    /// replies come from there as `shown` (the name that the client knows; `None`: the address).
    /// Ends with the first packet after one that the peer refused.
    ///
    /// # Errors
    /// The socket is not connected; those of [`UdpPackets::new`].
    pub fn connected(socket: UdpSocket, shown: Option<Target>) -> io::Result<Self> {
        let peer = socket.peer_addr()?;
        let shown = shown.unwrap_or_else(|| peer.into());
        Ok(Self { connected: Some((peer, shown)), ..Self::new(socket)? })
    }

    /// The local address.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn show(&self, batch: &mut Batch, added: usize) {
        if let Some((_, shown)) = &self.connected {
            (batch.len() - added..batch.len()).for_each(|i| batch.set_peer(i, shown.clone()));
        }
    }
}

/// Whether an error of a connected socket says that the peer is gone. The same error of an unconnected
/// one is about some packet or other, sent to some peer or other.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

impl PacketIo for UdpPackets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let poured = self.inbox.pour(batch, &mut |_| ());
        if poured > 0 {
            self.show(batch, poured);
            return Poll::Ready(Ok(poured));
        }
        let mut errors = 0;
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.inbox.recv(&self.offload, &self.socket, batch, |_| ()) {
                Ok(added) => {
                    self.show(batch, added);
                    return Poll::Ready(Ok(added));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    errors += 1;
                    if self.connected.is_some() && is_final(&error) || errors > ERRORS {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let connected = self.connected.as_ref().map(|(peer, _)| *peer);
        loop {
            let result = self.offload.send(
                &self.socket,
                batch,
                None,
                |peer| connected.or_else(|| peer.socket_addr()),
                |error| match connected {
                    Some(_) if is_final(&error) => Err(error),
                    _ => Ok(()),
                },
            );
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_send_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }
}
