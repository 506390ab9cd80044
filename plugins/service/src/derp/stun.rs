//! STUN on a socket of its own: one datagram, one answer.

use std::{io, pin::pin};

use crosspoint_derp::stun;
use crosspoint_kernel::{
    BuildCx,
    component::Fault,
    net::{listen::Bound, udp::SharedUdp},
    relay::{give_batch, take_batch},
};
use tokio::net::UdpSocket;

/// Batches that are moved before other tasks get their turn.
const TURNS: u32 = 8;

/// Errors in a row after which the socket counts as broken. Most are about clients that are gone.
const ERRORS: u32 = 64;

/// Answers until the instance is cancelled, and never ends then.
pub(super) async fn serve(socket: Bound<UdpSocket>, cx: &BuildCx) -> Result<(), Fault> {
    let fault = |what: &str, error: io::Error| Fault(format!("stun: {what}: {error}"));
    socket.tune().map_err(|error| fault("set options of the socket", error))?;
    let mut udp =
        SharedUdp::on(socket.clone()).map_err(|error| fault("prepare the socket", error))?;
    let mut cancelled = pin!(cx.cancel.cancelled());
    let mut errors = 0;
    loop {
        tokio::select! {
            biased;
            // Whoever accepts may have to linger, and ends both.
            () = &mut cancelled => std::future::pending().await,
            ready = udp.readable() => ready.map_err(|error| fault("receive", error))?,
        }
        match receive(&mut udp).await {
            Ok(()) => errors = 0,
            Err(_) if errors < ERRORS => errors += 1,
            Err(error) => return Err(fault("receive", error)),
        }
        tokio::task::yield_now().await;
    }
}

/// Answers what has come.
async fn receive(udp: &mut SharedUdp) -> io::Result<()> {
    let (mut backs, mut out_backs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let mut batch = take_batch();
        backs.clear();
        let received = udp.try_recv(&mut batch, &mut backs);
        if let Err(error) = received {
            give_batch(batch);
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(error),
            };
        }
        let mut out = take_batch();
        let mut answer = Vec::with_capacity(48);
        for at in 0..batch.len() {
            let client = batch.peer(at).socket_addr();
            let (Some(tx), Some(addr)) = (stun::request(batch.payload(at)), client) else {
                continue;
            };
            answer.clear();
            stun::answer(&mut answer, &tx, addr);
            if out.push(&answer, batch.peer(at).clone()) {
                out_backs.push(backs.get(at).copied().unwrap_or_default());
            }
        }
        let sent = udp.send(&mut out, &mut out_backs).await;
        give_batch(out);
        give_batch(batch);
        sent?;
    }
    Ok(())
}
