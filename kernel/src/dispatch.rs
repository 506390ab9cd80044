//! One connection from its inbound to its end: route, connect, answer, relay.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use tokio::{io::AsyncWriteExt, sync::OwnedSemaphorePermit};
use tracing::{debug, error, info};

use crate::{
    component::{Conn, Dial},
    error::{DialClass, DialError, Side},
    flow::{self, Flow},
    ledger::{Cut, Entry},
    relay,
    session::Session,
    snapshot::{Decision, Plane, Reject, RouteError, Snapshot},
};

/// Takes connections from inbounds and carries each to its end.
#[derive(Clone)]
pub struct Dispatch {
    plane: Arc<Plane>,
}

/// Where a connection goes.
enum Way {
    /// Out, through this flow.
    Out(Flow),
    /// To the resolver of this generation, which answers its DNS queries.
    Dns(Arc<Snapshot>),
}

/// What became of a connection before any byte was relayed.
#[derive(Debug)]
enum Refused {
    Cut(Cut),
    Rule(Reject),
    Route(RouteError),
    Dial(DialError),
}

impl Dispatch {
    /// A dispatcher on that plane.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }

    /// Carries one connection to its end, in the caller's task. Failures are logged here; the client
    /// learns of them through its protocol's reply.
    pub async fn conn(&self, conn: Conn) {
        let Conn { mut session, mut flow, permit } = conn;
        if let Some(tag) = session.detour.take() {
            return self.detour(&tag, Conn { session, flow, permit }).await;
        }
        let _permit: OwnedSemaphorePermit = permit;
        info!(
            conn = session.id,
            component = %session.inbound,
            "inbound {}connection from {} to {}",
            if matches!(flow, Flow::Packet(_)) { "packet " } else { "" },
            session.source,
            session.target
        );
        // Entered before anything is awaited, so that a user who is revoked meanwhile is found.
        let entry = self.plane.ledger.register(&session);
        session.standing = None;
        // Setting up needs much more state than relaying: boxed, so that an idle connection's
        // task does not carry it.
        let outcome =
            unless_cut(&entry, Box::pin(self.set_up(&mut session, &mut flow, &entry))).await;
        if let Ok(Way::Dns(snapshot)) = outcome {
            return Box::pin(serve_dns(&session, flow, &entry, &snapshot, &self.plane)).await;
        }
        let Session { id, inbound, target, started, udp, protocol, .. } = *session;
        let age = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Way::Dns(_)) => {}
            Ok(Way::Out(out)) => {
                let end = match (flow, out) {
                    (Flow::Stream(client), Flow::Stream(server)) => {
                        relay::streams(client, server, &entry).await
                    }
                    (Flow::Packet(client), Flow::Packet(server)) => {
                        let timeout = relay::udp_timeout(udp, protocol, target.port);
                        relay::packets(client, server, &entry, timeout).await
                    }
                    _ => return,
                };
                debug!(
                    conn = id,
                    age = age(),
                    component = %inbound,
                    up = entry.up.load(Ordering::Relaxed),
                    down = entry.down.load(Ordering::Relaxed),
                    "connection to {target}: {end}",
                );
            }
            Err(Refused::Rule(how)) => {
                debug!(conn = id, age = age(), component = %inbound, "connection to {target} rejected: {how:?}");
                let error = DialError::new(DialClass::Rejected, Side::Local, "rejected by rule");
                refuse(&mut flow, &error, how).await;
            }
            Err(Refused::Cut(why)) => {
                debug!(conn = id, age = age(), component = %inbound, "connection to {target}: {}", why.as_str());
            }
            Err(Refused::Route(error)) => {
                error!(conn = id, age = age(), component = %inbound, "route connection to {target}: {error}");
                let error = DialError::new(DialClass::Other, Side::Local, error);
                refuse(&mut flow, &error, Reject::Refuse).await;
            }
            Err(Refused::Dial(error)) => {
                error!(conn = id, age = age(), component = %inbound, "open connection to {target}: {error}");
                refuse(&mut flow, &error, Reject::Refuse).await;
            }
        }
    }

    async fn set_up(
        &self,
        session: &mut Session,
        flow: &mut Flow,
        entry: &Entry,
    ) -> Result<Way, Refused> {
        let slot = {
            let snapshot = self.plane.snapshot.load_full();
            match snapshot.routes.route(session, flow, &snapshot).await.map_err(Refused::Route)? {
                Decision::Outbound(slot) => slot,
                Decision::HijackDns => return Ok(Way::Dns(snapshot.clone())),
                Decision::Reject(how) => return Err(Refused::Rule(how)),
            }
        };
        let dial =
            Dial { session: Some(session), entry: Some(entry), ..Dial::internal(&session.target) };
        let out = match flow {
            Flow::Stream(_) => {
                let stream = slot.connect(dial).await;
                stream.and_then(|stream| flow::shape(stream, session)).map(Flow::Stream)
            }
            Flow::Packet(_) => slot.associate(dial).await.map(Flow::Packet),
        };
        let out = out.map_err(Refused::Dial)?;
        let local = match &out {
            Flow::Stream(stream) => stream.local_addr(),
            Flow::Packet(_) => None,
        };
        let answered = answer(flow, Ok(local)).await;
        answered.map_err(|e| Refused::Dial(DialError::from_io(&e, Side::Local)))?;
        Ok(Way::Out(out))
    }

    async fn detour(&self, tag: &str, conn: Conn) {
        let snapshot = self.plane.snapshot.load_full();
        let (id, component) = (conn.session.id, conn.session.inbound.clone());
        let Some(slot) = snapshot.names.injects.get(tag) else {
            error!(conn = id, %component, "inbound detour [{tag}] takes no connections");
            return;
        };
        match slot.get().await {
            Ok(inbound) => {
                if inbound.face.inject(conn).is_err() {
                    error!(conn = id, %component, "inbound detour [{tag}] takes no such flow");
                }
            }
            Err(error) => error!(conn = id, %component, "inbound detour: {error}"),
        }
    }
}

/// Answers a client's DNS queries ourselves.
async fn serve_dns(
    session: &Session,
    mut flow: Flow,
    entry: &Entry,
    snapshot: &Snapshot,
    plane: &Plane,
) {
    let serve = async {
        let served = match answer(&mut flow, Ok(None)).await {
            Ok(()) => snapshot.resolver.serve(session, flow, plane).await,
            Err(error) => Err(error),
        };
        served.map_err(|error| Refused::Dial(DialError::from_io(&error, Side::Local)))
    };
    let (conn, component) = (session.id, &session.inbound);
    match unless_cut(entry, Box::pin(serve)).await {
        Ok(()) => debug!(conn, %component, "DNS connection closed"),
        Err(Refused::Cut(why)) => debug!(conn, %component, "DNS connection: {}", why.as_str()),
        Err(Refused::Dial(error)) => debug!(conn, %component, "DNS connection: {error}"),
        Err(_) => {}
    }
}

/// Does `work`, unless the connection is cut meanwhile.
async fn unless_cut<T>(
    entry: &Entry,
    mut work: impl Future<Output = Result<T, Refused>> + Unpin,
) -> Result<T, Refused> {
    // Nothing is dialled for a user who was revoked on the way here.
    if let Some(why) = entry.is_cut() {
        return Err(Refused::Cut(why));
    }
    poll_fn(|cx| match Pin::new(&mut work).poll(cx) {
        Poll::Pending => entry.poll_cut(cx).map(|why| Err(Refused::Cut(why))),
        ready => ready,
    })
    .await
}

async fn answer(
    flow: &mut Flow,
    outcome: Result<Option<std::net::SocketAddr>, &DialError>,
) -> std::io::Result<()> {
    poll_fn(|cx| match flow {
        Flow::Stream(stream) => stream.poll_answer(cx, outcome),
        Flow::Packet(packets) => packets.poll_answer(cx, outcome),
    })
    .await
}

/// Tells the client no. `Drop` says nothing: the flow is just closed by the caller's drop.
async fn refuse(flow: &mut Flow, error: &DialError, how: Reject) {
    if how == Reject::Refuse {
        // The client may have gone already; there is nobody else to tell.
        let _ = answer(flow, Err(error)).await;
        if let Flow::Stream(stream) = flow {
            let _ = stream.shutdown().await;
        }
    }
}
