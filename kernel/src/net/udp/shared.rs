//! One listening socket whose datagrams are answered one by one: no association for each client.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::{io::Interest, net::UdpSocket};

use super::{inbox::Inbox, offload::Offload};
use crate::{
    addr::Target,
    flow::{BATCH, Batch},
    relay::{give_batch, take_batch},
};

/// The way back to a client, beside its address in the batch: an answer must leave from the address that the question
/// came to, and to the interface that it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Back {
    /// Our address, on a socket for all addresses.
    local: Option<IpAddr>,
    /// The zone of a link-local client.
    scope: u32,
}

/// A shared socket without associations, for protocols of one question and one answer.
///
/// Several loops may use one socket at a time while one replaces the other.
#[derive(Debug)]
pub struct SharedUdp {
    socket: Arc<UdpSocket>,
    offload: Offload,
    inbox: Inbox,
    wildcard: bool,
    v6: bool,
}

impl SharedUdp {
    /// Answers on that socket.
    ///
    /// # Errors
    /// The system refuses the options that batches need.
    pub fn on(socket: Arc<UdpSocket>) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let wildcard = local.ip().is_unspecified();
        let offload = Offload::new(&socket, wildcard)?;
        Ok(Self { socket, offload, inbox: Inbox::default(), wildcard, v6: local.is_ipv6() })
    }

    /// Waits until something can be received.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Adds received datagrams to `batch`, their clients as peers, and to `backs` the way back for each. Returns their
    /// number, at least one.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; what the system reports, mostly about what was sent before.
    pub fn try_recv(&mut self, batch: &mut Batch, backs: &mut Vec<Back>) -> io::Result<usize> {
        let wildcard = self.wildcard;
        self.inbox.recv(&self.offload, &self.socket, batch, |meta| {
            let usable = |ip: &IpAddr| match ip {
                IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
                IpAddr::V6(ip) => !ip.is_multicast(),
            };
            let local = meta.dst_ip.map(|ip| ip.to_canonical()).filter(usable);
            let scope = match meta.addr {
                SocketAddr::V6(v6) => v6.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            backs.push(Back { local: local.filter(|_| wildcard), scope });
        })
    }

    /// Sends `batch` and empties it, `backs` with it. Waits while the socket is full; what the system refuses to send
    /// is dropped.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn send(&self, batch: &mut Batch, backs: &mut Vec<Back>) -> io::Result<()> {
        loop {
            match self.try_send(batch, backs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                result => {
                    batch.clear();
                    backs.clear();
                    return result;
                }
            }
        }
    }

    /// Sends datagrams of `size` bytes to one peer without waiting; they lie one behind the other in `contents`, and the
    /// last one may be shorter. Returns how many bytes were sent, or can never be: fewer than all when the socket
    /// is full.
    pub fn try_send_run(&self, to: SocketAddr, contents: &[u8], size: usize) -> usize {
        self.offload.send_run(&self.socket, to, contents, size)
    }

    /// Waits until something can be sent.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// As [`SharedUdp::send`]; `WouldBlock` leaves what is left in the batch.
    fn try_send(&self, batch: &mut Batch, backs: &mut Vec<Back>) -> io::Result<()> {
        backs.resize(batch.len(), Back::default());
        while let Some(back) = backs.first().copied() {
            let run = backs.iter().take_while(|other| **other == back).count();
            let before = batch.len();
            let result = if run == before {
                let result = self.send_run(batch, back);
                backs.drain(..before - batch.len());
                result
            } else {
                // Answers that take different ways: few.
                let mut part = take_batch();
                for at in 0..run {
                    part.push(batch.payload(at), batch.peer(at).clone());
                }
                let result = self.send_run(&mut part, back);
                let sent = run - part.len();
                batch.drain_front(sent);
                backs.drain(..sent);
                give_batch(part);
                result
            };
            result?;
        }
        Ok(())
    }

    /// Sends a batch that goes one way.
    fn send_run(&self, batch: &mut Batch, back: Back) -> io::Result<()> {
        let address = |peer: &Target| {
            let mut address = peer.socket_addr()?;
            if let SocketAddr::V6(v6) = &mut address {
                v6.set_scope_id(back.scope);
            }
            Some(address)
        };
        // Answers of one size to one client are one segmented send; many clients are one call with many messages.
        let beside = |at: &usize| batch.peer(*at) == batch.peer(*at + 1);
        let neighbours = (0..batch.len().saturating_sub(1)).filter(beside).count();
        if back.local.is_some() || 2 * neighbours + 1 >= batch.len() {
            // What is refused was to leave from an address that is no longer ours: the client asks again.
            return self.offload.send(&self.socket, batch, back.local, address, |_| Ok(()));
        }
        while !batch.is_empty() {
            let sent = match self.send_many(batch, address) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // About the first datagram alone.
                Err(_) => 1,
                Ok(sent) => sent.max(1),
            };
            if sent >= batch.len() {
                batch.clear();
            } else {
                batch.drain_front(sent);
            }
        }
        Ok(())
    }

    /// Sends datagrams from the front of the batch in one call. Returns how many were sent.
    fn send_many(
        &self,
        batch: &Batch,
        address: impl Fn(&Target) -> Option<SocketAddr>,
    ) -> io::Result<usize> {
        let to: [SocketAddrAny; BATCH] = std::array::from_fn(|at| {
            let known = (at < batch.len()).then(|| address(batch.peer(at))).flatten();
            // Port 0 is refused by the system, which drops the datagram.
            let known = known.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
            match known {
                SocketAddr::V4(v4) if self.v6 => {
                    SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()).into()
                }
                known => known.into(),
            }
        });
        let bytes: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|at| {
            [IoSlice::new(if at < batch.len() { batch.payload(at) } else { &[] })]
        });
        let mut control: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut rest = control.iter_mut();
        let mut messages: Vec<MMsgHdr<'_>> = to
            .iter()
            .zip(&bytes)
            .take(batch.len())
            .filter_map(|(to, bytes)| Some(MMsgHdr::new_with_addr(to, bytes, rest.next()?)))
            .collect();
        let mut send = || Ok(sendmmsg(&*self.socket, &mut messages, SendFlags::empty())?);
        match send() {
            // Once more through the reactor, so that it knows.
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {
                self.socket.try_io(Interest::WRITABLE, send)
            }
            result => result,
        }
    }
}
