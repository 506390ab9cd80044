//! One connection from its inbound to its end: route, connect, answer, relay.

use std::{future::poll_fn, sync::Arc, sync::atomic::Ordering};

use tokio::{io::AsyncWriteExt, sync::OwnedSemaphorePermit};
use tracing::{debug, info};

use crate::{
    component::{Conn, Dial},
    error::{DialClass, DialError, Side},
    flow::Flow,
    ledger::Registered,
    relay,
    session::Session,
    slot::Slot,
    snapshot::{Decision, Plane, Reject, RouteError},
};

/// Takes connections from inbounds and carries each to its end.
#[derive(Clone)]
pub struct Dispatch {
    plane: Arc<Plane>,
}

/// What became of a connection before any byte was relayed.
#[derive(Debug)]
enum Refused {
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
        // Setting up needs much more state than relaying: boxed, so that an idle connection's
        // task does not carry it.
        let outcome = Box::pin(self.set_up(&mut session, &mut flow)).await;
        let (id, inbound, target) = (session.id, session.inbound.clone(), session.target.clone());
        match outcome {
            Ok((entry, out)) => {
                let started = session.started;
                let udp = session.udp;
                let protocol = session.protocol;
                drop(session);
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
                    component = %inbound,
                    up = entry.up.load(Ordering::Relaxed),
                    down = entry.down.load(Ordering::Relaxed),
                    "connection to {target} closed after {:?}: {end}",
                    started.elapsed(),
                );
            }
            Err(Refused::Rule(how)) => {
                debug!(conn = id, component = %inbound, "connection to {target} rejected: {how:?}");
                refuse(
                    &mut flow,
                    &DialError::new(DialClass::Rejected, Side::Local, "rejected by rule"),
                    how,
                )
                .await;
            }
            Err(Refused::Route(error)) => {
                tracing::error!(conn = id, component = %inbound, "route connection to {target}: {error}");
                let error = DialError::new(DialClass::Other, Side::Local, error);
                refuse(&mut flow, &error, Reject::Refuse).await;
            }
            Err(Refused::Dial(error)) => {
                tracing::error!(conn = id, component = %inbound, "open connection to {target}: {error}");
                refuse(&mut flow, &error, Reject::Refuse).await;
            }
        }
    }

    async fn set_up(
        &self,
        session: &mut Session,
        flow: &mut Flow,
    ) -> Result<(Registered, Flow), Refused> {
        let slot = {
            let snapshot = self.plane.snapshot.load_full();
            match snapshot.routes.route(session, flow, &snapshot).await.map_err(Refused::Route)? {
                Decision::Outbound(slot) => slot,
                Decision::Reject(how) => return Err(Refused::Rule(how)),
            }
        };
        let entry = self.plane.ledger.register(session);
        let packets = matches!(flow, Flow::Packet(_));
        let out = connect(&slot, session, packets, &entry).await.map_err(Refused::Dial)?;
        let local = match &out {
            Flow::Stream(stream) => stream.local_addr(),
            Flow::Packet(_) => None,
        };
        answer(flow, Ok(local))
            .await
            .map_err(|e| Refused::Dial(DialError::from_io(&e, Side::Local)))?;
        Ok((entry, out))
    }

    async fn detour(&self, tag: &str, conn: Conn) {
        let snapshot = self.plane.snapshot.load_full();
        let (id, component) = (conn.session.id, conn.session.inbound.clone());
        let Some(slot) = snapshot.names.injects.get(tag) else {
            tracing::error!(conn = id, %component, "inbound detour [{tag}] takes no connections");
            return;
        };
        match slot.get().await {
            Ok(inbound) => {
                if inbound.face.inject(conn).is_err() {
                    tracing::error!(conn = id, %component, "inbound detour [{tag}] takes no such flow");
                }
            }
            Err(error) => tracing::error!(conn = id, %component, "inbound detour: {error}"),
        }
    }
}

/// Dials through `slot`, until the connection is cut.
async fn connect(
    slot: &Slot<dyn crate::component::Outbound>,
    session: &Session,
    packets: bool,
    entry: &Registered,
) -> Result<Flow, DialError> {
    let dial =
        Dial { session: Some(session), target: &session.target, entry: Some(entry), hops: 0 };
    let work = async {
        Ok(match packets {
            false => Flow::Stream(slot.connect(dial).await?),
            true => Flow::Packet(slot.associate(dial).await?),
        })
    };
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let std::task::Poll::Ready(result) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(result);
        }
        entry
            .poll_cut(cx)
            .map(|why| Err(DialError::new(DialClass::Rejected, Side::Local, why.as_str())))
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
