//! The datagram side of both kinds of servers.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use crosspoint_kernel::{
    addr::Target,
    component::{BuildCx, Conn, Fault},
    flow::{BoxPacketIo, Flow},
    net::{
        listen::Bound,
        udp::{Nat, NewSession},
    },
    serve,
    session::Network,
};
use crosspoint_layers::{
    inbound::{Greeter, Inbound},
    offer::Sockets,
    roster::Roster as _,
};
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use super::wire::WireError;

/// The networks that an inbound serves.
pub(super) fn networks(list: &crosspoint_schema::decode::NetworkList) -> Vec<Network> {
    let all = [(Network::Tcp, list.tcp()), (Network::Udp, list.udp())];
    all.into_iter().filter_map(|(network, has)| has.then_some(network)).collect()
}

/// What a server does with datagrams.
pub(super) trait Datagrams: Greeter {
    /// Opens a datagram in place: where its payload lies, and where it is to go.
    ///
    /// # Errors
    /// [`WireError`]; it is dropped.
    fn open(
        &self,
        users: &Self::Users,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, Target), WireError>;

    /// A client whose first datagram was opened: who it is, and its association with answers sealed.
    fn client(
        &self,
        users: &Self::Users,
        source: SocketAddr,
        packets: BoxPacketIo,
    ) -> (Option<Arc<str>>, BoxPacketIo);
}

/// Serves datagrams until the instance is cancelled.
///
/// # Errors
/// The socket is broken.
async fn serve<G: Datagrams>(
    cx: &BuildCx,
    inbound: &Arc<Inbound<G>>,
    socket: Bound<UdpSocket>,
) -> Result<(), Fault> {
    let fault = |what: &str, error: std::io::Error| Fault(format!("{what}: {error}"));
    socket.tune().map_err(|e| fault("set options of the socket", e))?;
    let nat = Nat::on(&socket).map_err(|e| fault("prepare the socket", e))?;
    let server = inbound.greeter();
    let classify = |source: SocketAddr, packet: &mut [u8]| {
        let opened = server.open(&inbound.users_now(), source, packet);
        opened
            .inspect_err(
                |error| debug!(component = %cx.me, "process packet from {source}: {error}"),
            )
            .ok()
    };
    let admit = |new: NewSession| {
        let NewSession { source, target, packets, .. } = new;
        let Some(permit) = serve::permit() else {
            warn!(component = %cx.me, "packet connection from {source} dropped: too many connections");
            return;
        };
        let users = inbound.users();
        let (user, packets) = server.client(&users, source, packets);
        if !users.has(user.as_deref()) {
            // Revoked since the datagram was opened.
            return;
        }
        let id = cx.plane.ledger.next_id();
        let session = inbound.session(id, Network::Udp, (source, target), user, users);
        let conn = Conn { session, flow: Flow::Packet(packets), permit };
        let unpack = inbound.unpack().clone();
        tokio::spawn(async move { unpack.conn(conn).await });
    };
    let beat = async {
        loop {
            cx.pulse.beat().await;
        }
    };
    tokio::select! {
        () = cx.cancel.cancelled() => Ok(()),
        error = nat.serve(classify, admit) => Err(fault("receive", error)),
        () = beat => Ok(()),
    }
}

/// Serves both networks, as far as there are sockets for them.
///
/// # Errors
/// A socket is broken.
pub(super) async fn serve_both<G: Datagrams>(
    cx: &BuildCx,
    inbound: &Arc<Inbound<G>>,
    Sockets { tcp, udp }: Sockets,
) -> Result<(), Fault> {
    let streams = async {
        match tcp {
            Some(tcp) => inbound.clone().run(tcp).await,
            None => std::future::pending().await,
        }
    };
    let packets = async {
        match udp {
            Some(udp) => serve(cx, inbound, udp).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = streams => end,
        end = packets => end,
    }
}
