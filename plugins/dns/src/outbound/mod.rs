//! Outbound `dns`: answers the DNS queries of the connections that are routed to it. Old; the rule action `hijack-dns`
//! replaces it, and the reference refuses it unless `ENABLE_DEPRECATED_SPECIAL_OUTBOUNDS` is set.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, DialError, Kind, Plugin, Spec,
    addr::Target,
    component::{Dial, Outbound},
    error::{DialClass, Side},
    flow::{Batch, BoxPacketIo, BoxStream, PacketIo},
    resolve::{Ask, NO_TRAIL},
    session::Session,
    snapshot::Plane,
};
use crosspoint_resolver::serve::{self, Desk, wire};
use crosspoint_schema::{
    decode::{Map, Options as _},
    options,
};
use tracing::debug;

inventory::submit! {
    Plugin {
        kind: Kind::Outbound,
        type_name: "dns",
        schema: DnsOutOptions::describe, canonical: |raw| raw.canonical::<DnsOutOptions>(),
        parse: |raw| Ok(Arc::new(DnsOut(raw.parse()?))),
    }
}

options! {
    /// Answers DNS queries (deprecated: rule action `hijack-dns`).
    pub struct DnsOutOptions ("option.StubOptions") {}
}

/// Bytes that a stream may be ahead of its reader.
const PIPE: usize = 16 * 1024;

/// Queries of one association that may wait; further ones are dropped.
const WAITING: usize = 256;

#[derive(Debug)]
struct DnsOut(DnsOutOptions);

impl Spec for DnsOut {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        let outbound = Answering { plane: cx.plane };
        Box::pin(async {
            Ok(Component { outbound: Some(Arc::new(outbound)), ..Component::default() })
        })
    }
}

struct Answering {
    plane: Arc<Plane>,
}

/// The client's connection. Others cannot dial through this outbound; the error is the system's words for EINVAL, which
/// the reference gives.
fn client(dial: Dial<'_>) -> Result<Session, DialError> {
    dial.session
        .cloned()
        .ok_or_else(|| DialError::new(DialClass::Other, Side::Local, "invalid argument"))
}

impl Outbound for Answering {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let (session, plane) = (client(dial)?, self.plane.clone());
            let (near, far) = tokio::io::duplex(PIPE);
            // Ends with its other end, which belongs to the connection.
            tokio::spawn(async move {
                if let Err(error) = serve::stream(Box::new(far), &session, &plane).await {
                    debug!(conn = session.id, "DNS connection: {error}");
                }
            });
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let session = Arc::new(client(dial)?);
            Ok(Box::new(Answers {
                plane: self.plane.clone(),
                session,
                desk: Desk::default(),
                ready: VecDeque::new(),
                waker: None,
            }) as BoxPacketIo)
        })
    }
}

/// A server that is none: what is sent to it comes back as answers.
struct Answers {
    plane: Arc<Plane>,
    session: Arc<Session>,
    desk: Desk<'static, (Target, usize)>,
    /// Answers that were at hand.
    ready: VecDeque<(Vec<u8>, Target)>,
    /// Who waits for answers.
    waker: Option<Waker>,
}

impl PacketIo for Answers {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let before = batch.len();
        while !batch.is_full() {
            if let Some((answer, peer)) = self.ready.pop_front() {
                batch.push(&answer, peer);
            } else if let Poll::Ready(reply) = self.desk.poll_reply(cx) {
                let (peer, limit) = reply.key;
                if let Some(mut answer) = reply.message {
                    let end = wire::truncate(&mut answer, limit);
                    batch.push(&answer[..end], peer);
                }
            } else {
                break;
            }
        }
        match batch.len() - before {
            0 => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            added => Poll::Ready(Ok(added)),
        }
    }

    fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let resolver = self.plane.resolver();
        for at in 0..batch.len() {
            let (message, peer) = (batch.payload(at), batch.peer(at).clone());
            let Some(heard) = wire::hear(message) else { continue };
            if self.desk.len() + self.ready.len() >= WAITING {
                break;
            }
            let session = Some(&*self.session);
            let ask = Ask { message, session, server: None, trail: &NO_TRAIL };
            let mut answer = Vec::new();
            if resolver.exchange_now(ask, &mut answer) {
                let end = wire::truncate(&mut answer, heard.datagram);
                answer.truncate(end);
                self.ready.push_back((answer, peer));
            } else {
                let key = (peer, heard.datagram);
                self.desk.ask(resolver.clone(), self.session.clone(), message, key);
            }
        }
        batch.clear();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}
