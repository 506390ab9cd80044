//! Accepting connections: the loop that inbounds run, its limits, and what it does when they are reached.
//!
//! A listener takes a permit first and a connection second. Without a permit, or without descriptors,
//! it pauses: connections wait in the queue of the system, and those that live are not touched. When
//! descriptors are lacking for long, those that wait are turned away.

mod limit;
mod spare;
#[cfg(test)]
mod tests;

use std::{
    any::Any, future::Future, io, net::SocketAddr, panic::AssertUnwindSafe, pin::pin,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};
use tracing::error;

pub use limit::{connection_limit, permit, permits, raise_nofile};

use crate::{
    BuildCx,
    component::{Fault, Incarnation},
    error::panic_text,
    net::listen::Bound,
};

/// How long a client may take to say what it wants, unless its protocol says otherwise.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections taken per wake-up before other events get their turn.
const BURST: usize = 64;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The number of the connection, for [`Session::new`](crate::session::Session::new).
    pub id: u64,
    /// Its bytes.
    pub stream: TcpStream,
    /// The client; IPv4-mapped addresses are unwrapped.
    pub peer: SocketAddr,
    /// Counts it against the connection limit; belongs into [`Conn`](crate::component::Conn).
    pub permit: OwnedSemaphorePermit,
}

/// Accepts until the instance is cancelled, and runs `handler` in a task of its own for each connection.
/// This is the `run` future of TCP inbounds: options of the listener are set when it is first polled.
///
/// A panic of a handler ends its connection and is logged with the connection's number.
///
/// # Errors
/// The listening socket is broken.
pub async fn tcp<H, F>(listener: Bound<TcpListener>, cx: BuildCx, handler: H) -> Result<(), Fault>
where
    H: Fn(Accepted) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener =
        listener.activate(&cx).map_err(|e| Fault(format!("take over the listener: {e}")))?;
    let permits = permits();
    spare::hold();
    let mut pause = limit::Pause::default();
    let mut cancelled = pin!(cx.cancel.cancelled());
    let mut beat = pin!(cx.pulse.beat());
    let mut permit = None;
    loop {
        // A future that waits for a permit is made only when there is none.
        let next = async {
            if permit.is_none() {
                permit = match permits.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => {
                        limit::report_full(&cx);
                        permits.clone().acquire_owned().await.ok()
                    }
                };
            }
            pause.wait().await;
            listener.accept().await
        };
        let first = tokio::select! {
            biased;
            () = &mut cancelled => break,
            () = &mut beat => {
                beat.set(cx.pulse.beat());
                continue;
            }
            result = next => result,
        };
        let mut result = first;
        for taken in 1.. {
            match result {
                Ok((stream, peer)) => {
                    pause.clear();
                    if let Some(permit) = permit.take() {
                        spawn(&cx, &handler, stream, peer, permit);
                    }
                }
                Err(error) => {
                    if pause.on(&error, &cx)? == limit::Lack::Long {
                        limit::report_away(&cx, spare::turn_away(&listener, BURST));
                    }
                }
            }
            if taken >= BURST || pause.is_due() {
                break;
            }
            if permit.is_none() {
                permit = permits.clone().try_acquire_owned().ok();
            }
            if permit.is_none() {
                break;
            }
            match listener.accept().now_or_never() {
                Some(next) => result = next,
                None => break,
            }
        }
    }
    if let Some(linger) = listener.linger(&cx) {
        let rest = async {
            while let Ok((stream, peer)) = listener.accept().await {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                spawn(&cx, &handler, stream, peer, permit);
            }
        };
        // Not in time: only a lack of permits can be the reason.
        let _ = tokio::time::timeout(linger, rest).await;
    }
    Ok(())
}

/// Runs the handler of one connection in a task of its own.
fn spawn<F>(
    cx: &BuildCx,
    handler: &impl Fn(Accepted) -> F,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let id = cx.plane.ledger.next_id();
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let accepted = Accepted { id, stream, peer, permit };
    match std::panic::catch_unwind(AssertUnwindSafe(|| handler(accepted))) {
        Ok(work) => {
            let me = cx.me.clone();
            drop(tokio::spawn(async move {
                // Nobody sees what a panic left half done: the work is never polled again.
                if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                    report_panic(id, &me, &*panic);
                }
            }));
        }
        Err(panic) => report_panic(id, &cx.me, &*panic),
    }
}

fn report_panic(id: u64, me: &Incarnation, panic: &(dyn Any + Send)) {
    let text = panic_text(panic);
    error!(conn = id, component = %me, "connection task panicked: {text}");
}

/// Ends `work` with [`io::ErrorKind::TimedOut`] when it takes longer than `limit`: a client that does not
/// say what it wants must not stay for ever.
///
/// # Errors
/// Those of `work`, and the time-out.
pub async fn handshake<T, E: From<io::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("handshake not finished within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
    })
}
