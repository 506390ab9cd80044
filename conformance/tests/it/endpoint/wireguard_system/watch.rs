//! Looks at what passes a host.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use crosspoint_conformance::netns::Netns;

use super::stage::OUTER;

/// Looks at every packet of a host until it is told to stop: on its cable there must be nothing but the tunnel's.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u64>>,
}

impl Watch {
    pub(super) fn on(netns: &Netns) -> Result<Self> {
        use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, sockopt};
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = netns.run(move || async move {
            let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
            let socket =
                rustix::net::socket_with(AddressFamily::PACKET, kind, flags, Some(eth::ALL))?;
            let wait = Some(Duration::from_millis(50));
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait)?;
            let mut buf = [0; 128];
            let mut outer = 0;
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, _)) = rustix::net::recv(&socket, &mut buf[..], RecvFlags::empty())
                else {
                    continue;
                };
                match look(&buf[..len]) {
                    Some(Seen::Outer) => outer += 1,
                    Some(Seen::Leak(what)) => bail!("outside of the tunnel: {what}"),
                    None => {}
                }
            }
            Ok(outer)
        })?;
        Ok(Self { stop, thread })
    }

    /// How many packets of the tunnel there were.
    pub(super) async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.map_err(|_| anyhow::anyhow!("the watch panicked"))?
    }
}

enum Seen {
    Outer,
    Leak(String),
}

/// What a packet is, beside those of loopback and of the link itself (ICMPv6, IGMP).
fn look(packet: &[u8]) -> Option<Seen> {
    let (src, dst, protocol, rest): (IpAddr, IpAddr, u8, _) = match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
            (ip(12)?, ip(16)?, packet[9], packet.get(20..)?)
        }
        6 => {
            let ip = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
            (ip(8)?, ip(24)?, packet[6], packet.get(40..)?)
        }
        _ => return None,
    };
    if src.is_loopback() || dst.is_multicast() || matches!(protocol, 2 | 58) {
        return None;
    }
    let word = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let cable = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [10, 77]);
    // A fragment behind the first has no ports.
    let part = packet[0] >> 4 == 4 && packet[6..8] != [0, 0] && packet[6..8] != [0x40, 0];
    let outer = protocol == 17 && (part || word(0) == Some(OUTER) && word(2) == Some(OUTER));
    Some(match outer && cable(src) && cable(dst) {
        true => Seen::Outer,
        false => Seen::Leak(format!("{src} to {dst}, protocol {protocol}")),
    })
}
