//! Asks the DHCP servers on an interface for DNS servers, without taking a lease.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout_at},
};
use tracing::trace;

use super::packet::{Kind, MAX_MESSAGE, Reply, Request};

/// How long an answer may take, in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time to the first repetition, which doubles until it is `LONGEST` (RFC 2131 §4.1 is as patient).
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(16);

/// While a DHCP client has the port: how often to try, and how long to wait in between.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

const CLIENT: u16 = 68;
const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));

/// An interface as far as DHCP needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: Box<str>,
    pub(super) hardware: Vec<u8>,
    /// Our own address on it, if it has one.
    pub(super) address: Option<Ipv4Addr>,
}

/// Sends a discovery, and an inform as well where the interface has an address: a server without an address to
/// give away answers that one only. The first answer that names a DNS server counts.
///
/// # Errors
/// No socket, or no answer in time, in words.
pub(super) async fn probe(interface: &Interface, transaction: u32) -> Result<Reply, String> {
    let started = Instant::now();
    let on =
        |what: &str, error: &io::Error| format!("{what} on {}: {}", interface.name, text(error));
    let broadcast = open_patiently(interface).await.map_err(|e| on("listen for DHCP", &e))?;
    // Best effort: a DHCP client may have this one for itself.
    let own = interface.address.and_then(|ip| open(interface, ip).ok());
    let mut pause = FIRST;
    let mut nameless = false;
    while started.elapsed() < PATIENCE {
        let request = Request {
            kind: Kind::Discover,
            transaction,
            seconds: u16::try_from(started.elapsed().as_secs()).unwrap_or(u16::MAX),
            hardware: &interface.hardware,
            address: None,
        };
        broadcast.send_to(&request.to_bytes(), SERVER).await.map_err(|e| on("send DHCP", &e))?;
        if let Some(own) = &own {
            let inform = Request { kind: Kind::Inform, address: interface.address, ..request };
            // The discovery has been sent: one answer is enough.
            let _ = own.send_to(&inform.to_bytes(), SERVER).await;
        }
        let until = (Instant::now() + pause).min(started + PATIENCE);
        while let Ok(received) = timeout_at(until, receive(&broadcast, own.as_ref())).await {
            let bytes = received.map_err(|e| on("receive DHCP", &e))?;
            match Reply::parse(&bytes) {
                Some(reply) if reply.transaction != transaction || reply.kind.is_none() => {
                    trace!("dhcp: not for us: {reply:?}");
                }
                Some(reply) if reply.servers.is_empty() => nameless = true,
                Some(reply) => return Ok(reply),
                None => trace!("dhcp: not a DHCP answer"),
            }
        }
        // Whoever answered would have done so again.
        if nameless {
            return Err("dhcp: empty DNS servers response".to_owned());
        }
        pause = (pause * 2).min(LONGEST);
    }
    Err(format!("dhcp: no answer on {} within {PATIENCE:?}", interface.name))
}

/// The next datagram of either socket.
async fn receive(broadcast: &UdpSocket, own: Option<&UdpSocket>) -> io::Result<Vec<u8>> {
    let mut space = vec![0; MAX_MESSAGE.into()];
    let mut more = vec![0; if own.is_some() { MAX_MESSAGE.into() } else { 0 }];
    let unicast = async {
        match own {
            Some(own) => own.recv(&mut more).await,
            None => std::future::pending().await,
        }
    };
    let (mut bytes, length) = tokio::select! {
        length = broadcast.recv(&mut space) => { let length = length?; (space, length) }
        length = unicast => { let length = length?; (more, length) }
    };
    bytes.truncate(length);
    Ok(bytes)
}

async fn open_patiently(interface: &Interface) -> io::Result<UdpSocket> {
    let mut tries = 1;
    loop {
        match open(interface, Ipv4Addr::BROADCAST) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && tries < BUSY_TRIES => {
                tries += 1;
                sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// A socket for what comes to that address on that interface.
fn open(interface: &Interface, local: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.bind(&SocketAddr::from((local, CLIENT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_lowercase()
}
