//! Queries over TCP.

use std::{future::poll_fn, pin::pin, task::Poll};

use crosspoint_kernel::{
    BuildCx,
    serve::Accepted,
    session::{Network, Session},
};
use crosspoint_resolver::serve;
use tracing::debug;

/// Answers the queries of a connection until it ends or is cut.
pub(super) async fn accepted(cx: BuildCx, accepted: Accepted) {
    let Accepted { id, stream, peer, permit } = accepted;
    let Ok(local) = stream.local_addr() else { return };
    let session = Session::new(id, cx.me.clone(), Network::Tcp, peer, local.into());
    let entry = cx.plane.ledger.register(&session);
    let mut work = pin!(serve::stream(Box::new(stream), &session, &cx.plane));
    let end = poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Pending => entry.poll_cut(cx).map(Err),
        Poll::Ready(result) => Poll::Ready(Ok(result)),
    })
    .await;
    match end {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(conn = id, component = %cx.me, "DNS connection: {error}"),
        Err(cut) => debug!(conn = id, component = %cx.me, "DNS connection: {}", cut.as_str()),
    }
    drop(permit);
}
