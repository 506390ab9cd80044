//! A UDP association of SOCKS5: every datagram has a header, and a TCP connection keeps it alive.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use crosspoint_kernel::addr::{Host, Target};
use crosspoint_kernel::flow::{Batch, BoxPacketIo, BoxStream, PacketIo};

use super::wire::{emit_udp_header, parse_udp_header, udp_header_len};
use crate::host;
use crate::read::read_some;

/// Who is on the other side of the headers.
#[derive(Debug)]
enum Far {
    /// We are the client; datagrams go to the relay.
    Relay(Target),
    /// We are the relay. Datagrams come from the host of the TCP connection, or from where it announced, and
    /// answers go to where the last one came from.
    Client { host: IpAddr, announced: Option<IpAddr>, last: Option<Target> },
}

/// Datagrams of one association, without their headers.
pub(crate) struct Encapsulated {
    inner: BoxPacketIo,
    control: BoxStream,
    far: Far,
    /// Datagrams at the front of the batch that is being sent which have their header already.
    ready: usize,
    /// The name that was read last: clients mostly talk to one.
    name: Option<Arc<str>>,
}

impl Encapsulated {
    /// The client's end: `inner` is an association with the relay.
    pub(crate) fn client(inner: BoxPacketIo, control: BoxStream, relay: Target) -> Self {
        Self { inner, control, far: Far::Relay(relay), ready: 0, name: None }
    }

    /// The relay's end. `host` is the client's address as the TCP connection has it, `announced` the one in its request.
    pub(crate) fn relay(
        inner: BoxPacketIo,
        control: BoxStream,
        host: IpAddr,
        announced: Option<IpAddr>,
    ) -> Self {
        let announced = announced.filter(|ip| !ip.is_unspecified());
        Self {
            inner,
            control,
            far: Far::Client { host, announced, last: None },
            ready: 0,
            name: None,
        }
    }

    /// The association lives no longer than its TCP connection (RFC 1928 §7).
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            match read_some(&mut self.control, cx, |_| ()) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "socks control connection closed",
                    ));
                }
                // Nothing is said on it, but bytes do no harm.
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }

    /// Takes the header off datagram `index`. False: drop the datagram.
    fn open(&mut self, batch: &mut Batch, index: usize) -> bool {
        let from = batch.peer(index);
        let known = match &self.far {
            // What else reaches the socket is no answer of the relay.
            Far::Relay(_) => true,
            Far::Client { host, announced, .. } => {
                from.host.ip().is_some_and(|ip| ip == *host || Some(ip) == *announced)
            }
        };
        let Ok((target, len)) = parse_udp_header(batch.payload(index)) else { return false };
        if !known {
            return false;
        }
        let peer = match target.host {
            host::Host::Name(name) => {
                let shared = match &self.name {
                    Some(last) if **last == *name => last.clone(),
                    _ => Arc::from(name),
                };
                self.name = Some(shared.clone());
                Target { host: Host::Name(shared), port: target.port }
            }
            _ => target.into(),
        };
        if let Far::Client { last, .. } = &mut self.far
            && last.as_ref() != Some(from)
        {
            *last = Some(from.clone());
        }
        batch.trim_front(index, len);
        batch.set_peer(index, peer);
        true
    }
}

impl PacketIo for Encapsulated {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        loop {
            let before = batch.len();
            match self.inner.poll_recv(cx, batch) {
                Poll::Ready(Ok(_)) => {}
                other => return other,
            }
            let mut bad: u64 = 0;
            for index in before..batch.len() {
                bad |= u64::from(!self.open(batch, index)) << (index % 64);
            }
            if bad != 0 {
                let mut index = 0;
                batch.retain(|_, _| {
                    index += 1;
                    bad & (1 << ((index - 1) % 64)) == 0
                });
            }
            if batch.len() > before {
                return Poll::Ready(Ok(batch.len() - before));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let to = match &self.far {
            Far::Relay(relay) => relay,
            Far::Client { last: Some(last), .. } => last,
            Far::Client { last: None, .. } => {
                // Nobody has sent anything yet: there is no address to answer to.
                batch.clear();
                return Poll::Ready(Ok(()));
            }
        };
        for index in self.ready..batch.len() {
            let peer = host::Target::from(batch.peer(index));
            let len = udp_header_len(&peer);
            let mut header = [0u8; super::wire::MAX_UDP_HEADER];
            let mut rest = &mut header[..];
            emit_udp_header(&peer, &mut rest);
            // The headroom of a batch is larger than any header.
            if let (Some(room), Some(header)) = (batch.grow_front(index, len), header.get(..len)) {
                room.copy_from_slice(header);
            }
            batch.set_peer(index, to.clone());
        }
        let sent = self.inner.poll_send(cx, batch);
        self.ready = batch.len();
        sent
    }
}
