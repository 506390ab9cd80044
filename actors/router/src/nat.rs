//! Datagrams whose destination a rule has changed: clients keep seeing the address that they had asked for.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use crosspoint_kernel::{
    addr::{Host, Target},
    error::DialError,
    flow::{Batch, BoxPacketIo, PacketIo},
};

/// What one side calls a peer, and what the other does.
#[derive(Debug)]
pub(crate) enum Mapping {
    /// One destination for another, in both directions.
    Target { client: Target, server: Target },
    /// One host for another whatever the port; replies only if `back`.
    Host { client: Host, server: Host, back: bool },
}

impl Mapping {
    fn outward(&self, peer: &Target) -> Option<Target> {
        match self {
            Self::Target { client, server } => (peer == client).then(|| server.clone()),
            Self::Host { client, server, .. } => {
                (peer.host == *client).then(|| Target { host: server.clone(), port: peer.port })
            }
        }
    }

    fn inward(&self, peer: &Target) -> Option<Target> {
        match self {
            Self::Target { client, server } => (peer == server).then(|| client.clone()),
            Self::Host { client, server, back } => (*back && peer.host == *server)
                .then(|| Target { host: client.clone(), port: peer.port }),
        }
    }
}

/// A client's association with mapped peers.
pub(crate) struct Mapped {
    inner: BoxPacketIo,
    mapping: Mapping,
}

impl Mapped {
    pub(crate) fn new(inner: BoxPacketIo, mapping: Mapping) -> Self {
        Self { inner, mapping }
    }
}

fn rewrite(batch: &mut Batch, from: usize, map: impl Fn(&Target) -> Option<Target>) {
    for index in from..batch.len() {
        if let Some(peer) = map(batch.peer(index)) {
            batch.set_peer(index, peer);
        }
    }
}

impl PacketIo for Mapped {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let before = batch.len();
        let result = self.inner.poll_recv(cx, batch);
        rewrite(batch, before, |peer| self.mapping.outward(peer));
        result
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        // Mapping twice, after a pending send, changes nothing: a client's name for a peer is not a server's.
        rewrite(batch, 0, |peer| self.mapping.inward(peer));
        self.inner.poll_send(cx, batch)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        self.inner.poll_answer(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one packet per poll, keeps what is sent.
    struct Wire {
        incoming: Vec<Target>,
        sent: std::sync::Arc<parking_lot::Mutex<Vec<Target>>>,
    }

    impl PacketIo for Wire {
        fn poll_recv(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
            let peer = self.incoming.remove(0);
            batch.push(b"x", peer);
            Poll::Ready(Ok(1))
        }

        fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
            let mut sent = self.sent.lock();
            sent.extend((0..batch.len()).map(|index| batch.peer(index).clone()));
            batch.clear();
            Poll::Ready(Ok(()))
        }
    }

    fn run(
        mapping: Mapping,
        incoming: &[(&str, u16)],
        outgoing: &[(&str, u16)],
    ) -> (Vec<String>, Vec<String>) {
        let targets = |list: &[(&str, u16)]| {
            list.iter().map(|(h, p)| Target::new(*h, *p)).collect::<Vec<_>>()
        };
        let sent = std::sync::Arc::default();
        let wire = Wire { incoming: targets(incoming), sent: std::sync::Arc::clone(&sent) };
        let mut mapped = Mapped::new(Box::new(wire), mapping);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut batch = Batch::new();
        for _ in incoming {
            assert!(mapped.poll_recv(&mut cx, &mut batch).is_ready());
        }
        let received = (0..batch.len()).map(|i| batch.peer(i).to_string()).collect();
        batch.clear();
        for target in targets(outgoing) {
            batch.push(b"y", target);
        }
        assert!(mapped.poll_send(&mut cx, &mut batch).is_ready());
        let sent = sent.lock().iter().map(ToString::to_string).collect();
        (received, sent)
    }

    #[test]
    fn one_destination_for_another() {
        let mapping = Mapping::Target {
            client: Target::new("192.0.2.1", 53),
            server: Target::new("192.0.2.9", 5353),
        };
        let (received, sent) = run(
            mapping,
            &[("192.0.2.1", 53), ("192.0.2.1", 54)],
            &[("192.0.2.9", 5353), ("192.0.2.9", 53), ("192.0.2.7", 1)],
        );
        assert_eq!(received, ["192.0.2.9:5353", "192.0.2.1:54"]);
        assert_eq!(sent, ["192.0.2.1:53", "192.0.2.9:53", "192.0.2.7:1"]);
    }

    #[test]
    fn a_name_for_its_address() {
        for back in [true, false] {
            let mapping =
                Mapping::Host { client: "a.example".into(), server: "192.0.2.9".into(), back };
            let (received, sent) =
                run(mapping, &[("a.example", 53), ("b.example", 53)], &[("192.0.2.9", 53)]);
            assert_eq!(received, ["192.0.2.9:53", "b.example:53"]);
            assert_eq!(sent, [if back { "a.example:53" } else { "192.0.2.9:53" }]);
        }
    }
}
