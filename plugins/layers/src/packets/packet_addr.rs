//! packetaddr: a destination that is none stands for many, and every datagram begins with its peer: type (1 is IPv4, 2
//! is IPv6), address, port (v2fly `packetaddr`, sing-vmess `packetaddr/conn.go`). Names cannot be carried.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

use bytes::Bytes;
use crosspoint_kernel::{
    addr::{Host, Target},
    error::DialError,
    flow::{Batch, BoxPacketIo, PacketIo, PrefixedPackets},
    relay::{give_batch, take_batch},
};
use tracing::debug;

/// The destination that says so.
pub const NAME: &str = "sp.packet-addr.v2fly.arpa";

const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// The destination that a client asks for.
#[must_use]
pub fn target() -> Target {
    Target::new(NAME, 0)
}

/// Whether a client asks for that.
#[must_use]
pub fn is_wanted(target: &Target) -> bool {
    target.host.name() == Some(NAME)
}

/// Reads the peer in front of a datagram; returns it and its length in bytes.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(Target, usize)> {
    let (kind, rest) = bytes.split_first()?;
    let (ip, len) = match *kind {
        IPV4 => (IpAddr::from(Ipv4Addr::from(*rest.first_chunk::<4>()?)), 4),
        IPV6 => (IpAddr::from(Ipv6Addr::from(*rest.first_chunk::<16>()?)), 16),
        _ => return None,
    };
    let port = rest.get(len..)?.first_chunk()?;
    Some((Target::new(ip, u16::from_be_bytes(*port)), 1 + len + 2))
}

/// Length of the encoding of `ip`.
fn len(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 1 + 4 + 2 } else { 1 + 16 + 2 }
}

/// Writes a peer into `out`, which has the length of its encoding.
fn write(ip: IpAddr, port: u16, out: &mut [u8]) {
    let put = |out: &mut [u8], kind: u8, ip: &[u8]| {
        out[0] = kind;
        out[1..=ip.len()].copy_from_slice(ip);
        out[1 + ip.len()..].copy_from_slice(&port.to_be_bytes());
    };
    match ip {
        IpAddr::V4(ip) => put(out, IPV4, &ip.octets()),
        IpAddr::V6(ip) => put(out, IPV6, &ip.octets()),
    }
}

/// The encoding of a peer.
#[must_use]
pub fn emit(addr: SocketAddr) -> Vec<u8> {
    let mut out = vec![0; len(addr.ip())];
    write(addr.ip(), addr.port(), &mut out);
    out
}

/// Either end of an association: `inner` carries datagrams without looking at their peers.
#[must_use]
pub fn wrap(inner: BoxPacketIo) -> BoxPacketIo {
    Box::new(PacketAddr { inner, ready: 0 })
}

/// The server's end: waits for the first datagram, whose peer is the destination that rules are asked about.
///
/// # Errors
/// Those of `inner`.
pub async fn accept(inner: BoxPacketIo) -> io::Result<(Target, BoxPacketIo)> {
    let mut packets = wrap(inner);
    // Boxed, and only as long as it takes: a batch is large.
    let mut held: Vec<(Bytes, Target)> = Vec::new();
    poll_fn(|cx| {
        let mut batch = take_batch();
        let polled = packets.poll_recv(cx, &mut batch);
        let all = 0..batch.len();
        held.extend(all.map(|i| (Bytes::copy_from_slice(batch.payload(i)), batch.peer(i).clone())));
        give_batch(batch);
        polled
    })
    .await?;
    let Some((_, first)) = held.first() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let first = first.clone();
    Ok((first, Box::new(PrefixedPackets::new(held, packets))))
}

struct PacketAddr {
    inner: BoxPacketIo,
    /// Datagrams of the batch that is being sent which have their peer in front already.
    ready: usize,
}

impl PacketIo for PacketAddr {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        loop {
            let before = batch.len();
            match self.inner.poll_recv(cx, batch) {
                Poll::Ready(Ok(_)) => {}
                other => return other,
            }
            let mut bad = 0u64;
            for index in before..batch.len() {
                match parse(batch.payload(index)) {
                    Some((peer, len)) => {
                        batch.trim_front(index, len);
                        batch.set_peer(index, peer);
                    }
                    None => bad |= 1 << (index % 64),
                }
            }
            drop_marked(batch, bad);
            if batch.len() > before {
                return Poll::Ready(Ok(batch.len() - before));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut bad = 0u64;
        for index in self.ready..batch.len() {
            let Target { host, port } = batch.peer(index);
            let port = *port;
            let done = match host {
                Host::Ip(ip) => {
                    let ip = *ip;
                    let room = batch.grow_front(index, len(ip));
                    room.map(|room| write(ip, port, room)).is_some()
                }
                Host::Name(name) => {
                    debug!("datagram to {name}:{port} dropped: packetaddr carries no names");
                    false
                }
            };
            bad |= u64::from(!done) << (index % 64);
        }
        drop_marked(batch, bad);
        let sent = self.inner.poll_send(cx, batch);
        self.ready = batch.len();
        sent
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.inner.poll_answer(cx, outcome)
    }
}

/// Drops the datagrams whose bit is set.
fn drop_marked(batch: &mut Batch, marked: u64) {
    if marked != 0 {
        let mut index = 0;
        batch.retain(|_, _| {
            index += 1;
            marked & (1 << ((index - 1) % 64)) == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives back what was sent into it.
    #[derive(Default)]
    struct Loop(Vec<Vec<u8>>);

    impl PacketIo for Loop {
        fn poll_recv(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
            let all = std::mem::take(&mut self.0);
            for packet in &all {
                batch.push(packet, target());
            }
            if all.is_empty() { Poll::Pending } else { Poll::Ready(Ok(all.len())) }
        }

        fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
            self.0.extend((0..batch.len()).map(|i| batch.payload(i).to_vec()));
            batch.clear();
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn peers_travel_with_their_datagrams() {
        let mut near = wrap(Box::<Loop>::default());
        let mut batch = take_batch();
        let peers = [
            Target::new("192.0.2.1", 53),
            Target::new("no.names", 1),
            Target::new("2001:db8::1", 54),
        ];
        for peer in &peers {
            batch.push(b"x", peer.clone());
        }
        poll_fn(|cx| near.poll_send(cx, &mut batch)).await.unwrap();
        assert_eq!(poll_fn(|cx| near.poll_recv(cx, &mut batch)).await.unwrap(), 2);
        assert_eq!([batch.peer(0), batch.peer(1)], [&peers[0], &peers[2]]);
        assert_eq!(batch.payload(1), b"x");
    }

    #[tokio::test]
    async fn the_first_datagram_names_the_destination() {
        let mut first = emit("192.0.2.1:53".parse().unwrap());
        first.extend(b"query");
        let inner = Loop(vec![b"no peer".to_vec(), first]);
        let (to, mut packets) = accept(Box::new(inner)).await.unwrap();
        assert_eq!(to, Target::new("192.0.2.1", 53));
        let mut batch = take_batch();
        assert_eq!(poll_fn(|cx| packets.poll_recv(cx, &mut batch)).await.unwrap(), 1);
        assert_eq!((batch.payload(0), batch.peer(0)), (&b"query"[..], &to));
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(ip: IpAddr, port: u16, tail: Vec<u8>) {
            let mut bytes = emit(SocketAddr::new(ip, port));
            let end = bytes.len();
            for cut in 0..end {
                prop_assert_eq!(parse(&bytes[..cut]), None);
            }
            bytes.extend(tail);
            prop_assert_eq!(parse(&bytes), Some((Target::new(ip, port), end)));
        }
    }
}
