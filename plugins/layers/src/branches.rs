//! Connections that are carried inside of another one.

use std::{future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll};

use crosspoint_kernel::{
    addr::Target,
    component::Conn,
    dispatch::Dispatch,
    flow::Flow,
    serve,
    session::{Network, Session},
    snapshot::Plane,
};
use tracing::debug;

/// Hands out the connections that are carried inside of another one: they come from the same client and user through
/// the same inbound, and each has its own number, permit and task.
#[derive(Clone)]
pub struct Branches {
    plane: Arc<Plane>,
    carrier: Arc<Session>,
}

impl Branches {
    /// The client of the connection that carries them.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.carrier.source
    }

    /// Carries a connection to its end in a task of its own. Waits while the daemon has as many connections as it may
    /// have; returns false when it takes no more.
    pub async fn conn(&self, target: Target, flow: Flow) -> bool {
        let Ok(permit) = serve::permits().acquire_owned().await else { return false };
        let carrier = &self.carrier;
        let network = match flow {
            Flow::Stream(_) => Network::Tcp,
            Flow::Packet(_) => Network::Udp,
        };
        let id = self.plane.ledger.next_id();
        let mut session =
            Session::new(id, carrier.inbound.clone(), network, carrier.source, target);
        session.user.clone_from(&carrier.user);
        session.detour.clone_from(&carrier.detour);
        session.udp = carrier.udp;
        session.legacy.clone_from(&carrier.legacy);
        let dispatch = Dispatch::new(self.plane.clone());
        tokio::spawn(async move { dispatch.conn(Conn { session, flow, permit }).await });
        true
    }
}

/// Runs a session that carries connections to its end, or until it is cut: then those that it carries have nothing
/// under them any more. It stands in the ledger like any connection, so that it ends with its user.
pub async fn carry<F>(
    plane: &Arc<Plane>,
    mut session: Box<Session>,
    run: impl FnOnce(Branches) -> F,
) where
    F: Future<Output = io::Result<()>>,
{
    let entry = plane.ledger.register(&session);
    session.standing = None;
    let carrier: Arc<Session> = session.into();
    let mut work = pin!(run(Branches { plane: plane.clone(), carrier: carrier.clone() }));
    let end = poll_fn(|cx| match entry.poll_cut(cx) {
        Poll::Ready(cut) => Poll::Ready(Err(cut)),
        Poll::Pending => work.as_mut().poll(cx).map(Ok),
    });
    let (conn, component, source) = (carrier.id, &carrier.inbound, carrier.source);
    match end.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(conn, %component, "multiplex connection from {source}: {error}"),
        Err(cut) => {
            debug!(conn, %component, "multiplex connection from {source}: {}", cut.as_str())
        }
    }
}
