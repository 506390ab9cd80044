//! Sending: runs of datagrams of one size to one peer leave in one system call (UDP_SEGMENT).

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use quinn_udp::{Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use super::sys;
use crate::{addr::Target, flow::Batch};

/// Most payload that one segmented send carries: the largest IPv4 datagram without its headers, with
/// some room for extension headers.
const RUN: usize = 65_400;

static SEGMENTED: AtomicU64 = AtomicU64::new(0);
static COALESCED: AtomicU64 = AtomicU64::new(0);

/// How often offload was used in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams that left in a segmented send.
    pub segmented: u64,
    /// Datagrams that arrived in a coalesced receive.
    pub coalesced: u64,
}

/// How often offload was used in this process.
pub fn stats() -> Stats {
    Stats {
        segmented: SEGMENTED.load(Ordering::Relaxed),
        coalesced: COALESCED.load(Ordering::Relaxed),
    }
}

pub(super) fn count_coalesced(datagrams: usize) {
    COALESCED.fetch_add(datagrams as u64, Ordering::Relaxed);
}

/// What is known of a socket's abilities.
#[derive(Debug)]
pub(super) struct Offload {
    pub(super) state: UdpSocketState,
    /// IPv4 addresses must be mapped.
    v6: bool,
    /// The system knows the destination: naming it again costs a route lookup.
    connected: bool,
    /// Largest segment that the path has not refused yet.
    segment: AtomicUsize,
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Offload {
    /// `local`: received packets tell which of our addresses they came to.
    pub(super) fn new(socket: &UdpSocket, local: bool) -> io::Result<Self> {
        Ok(Self {
            state: sys::prepare(socket, local)?,
            v6: socket.local_addr()?.is_ipv6(),
            connected: socket.peer_addr().is_ok(),
            segment: AtomicUsize::new(RUN / 2),
        })
    }

    fn native(&self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            addr => addr,
        }
    }

    fn native_ip(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.v6 => v4.to_ipv6_mapped().into(),
            ip => ip,
        }
    }

    /// Sends the batch from its front and empties it. Datagrams without a destination and those that
    /// the system refuses are dropped; `refused` sees the reason and may make it an error.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full, with its readiness cleared and the rest in the batch;
    /// what `refused` says.
    pub(super) fn send(
        &self,
        socket: &UdpSocket,
        batch: &mut Batch,
        source: Option<IpAddr>,
        destination: impl Fn(&Target) -> Option<SocketAddr>,
        mut refused: impl FnMut(io::Error) -> io::Result<()>,
    ) -> io::Result<()> {
        let source = source.map(|ip| self.native_ip(ip));
        // Datagrams before this index are sent one by one.
        let mut single = 0;
        let mut at = 0;
        while at < batch.len() {
            // Nothing can be sent to port 0, and trying looks like a missing offload.
            let to = destination(batch.peer(at)).filter(|addr| addr.port() != 0);
            let Some(to) = to else {
                at += 1;
                continue;
            };
            let run = if at < single { 1 } else { self.run(batch, at, to, &destination) };
            let size = batch.payload(at).len();
            let to = self.native(to);
            let result = if run == 1 {
                self.transmit(socket, to, source, batch.payload(at), None)
            } else {
                let mut scratch = SCRATCH.take();
                scratch.clear();
                (at..at + run).for_each(|i| scratch.extend_from_slice(batch.payload(i)));
                let result = self.transmit(socket, to, source, &scratch, Some(size));
                SCRATCH.set(scratch);
                result
            };
            match result {
                Ok(()) => {
                    if run > 1 {
                        SEGMENTED.fetch_add(run as u64, Ordering::Relaxed);
                    }
                    at += run;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    batch.drain_front(at);
                    return Err(error);
                }
                // The path takes no segments of that size, or this interface none at all (then
                // quinn-udp has switched them off): one by one they may be fragmented.
                Err(error) if run > 1 && no_offload(&error) => {
                    if error.raw_os_error() == Some(libc::EMSGSIZE) {
                        self.segment.fetch_min(size.saturating_sub(1), Ordering::Relaxed);
                    }
                    single = at + run;
                }
                Err(error) => {
                    if let Err(error) = refused(error) {
                        batch.clear();
                        return Err(error);
                    }
                    at += run;
                }
            }
        }
        batch.clear();
        Ok(())
    }

    /// Sends datagrams of `size` bytes that lie one behind the other. Returns how many bytes need not be tried again.
    pub(super) fn send_run(
        &self,
        socket: &UdpSocket,
        to: SocketAddr,
        contents: &[u8],
        size: usize,
    ) -> usize {
        let to = self.native(to);
        let most = self.state.max_gso_segments().min(RUN / size.max(1)).max(1);
        let mut single = size > self.segment.load(Ordering::Relaxed);
        let mut sent = 0;
        while let Some(left) = contents.get(sent..).filter(|left| !left.is_empty() && size > 0) {
            let run = &left[..left.len().min(if single { size } else { size * most })];
            let several = run.len() > size;
            match self.transmit(socket, to, None, run, several.then_some(size)) {
                Ok(()) if several => {
                    SEGMENTED.fetch_add(run.len().div_ceil(size) as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                Err(error) if several && no_offload(&error) => {
                    if error.raw_os_error() == Some(libc::EMSGSIZE) {
                        self.segment.fetch_min(size.saturating_sub(1), Ordering::Relaxed);
                    }
                    single = true;
                    continue;
                }
                // What is refused is lost, as on any network.
                Ok(()) | Err(_) => {}
            }
            sent += run.len();
        }
        contents.len()
    }

    /// How many datagrams from `at` on can leave as one: same peer, same size but for the last, which
    /// may be shorter.
    fn run(
        &self,
        batch: &Batch,
        at: usize,
        to: SocketAddr,
        destination: &impl Fn(&Target) -> Option<SocketAddr>,
    ) -> usize {
        let size = batch.payload(at).len();
        let most = self.state.max_gso_segments();
        if most <= 1 || size == 0 || size > self.segment.load(Ordering::Relaxed) {
            return 1;
        }
        let (mut run, mut total) = (1, size);
        while run < most && at + run < batch.len() {
            let next = batch.payload(at + run).len();
            total += next;
            if next == 0 || next > size || total > RUN {
                break;
            }
            if destination(batch.peer(at + run)) != Some(to) {
                break;
            }
            run += 1;
            if next < size {
                break;
            }
        }
        run
    }

    fn transmit(
        &self,
        socket: &UdpSocket,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip };
        let send = || match segment_size.is_some() || src_ip.is_some() {
            true => self.state.try_send(socket.into(), &transmit),
            // Control messages would only be parsed in vain.
            false if self.connected => Ok(rustix::net::send(socket, contents, FLAGS).map(drop)?),
            false => Ok(rustix::net::sendto(socket, contents, FLAGS, &destination).map(drop)?),
        };
        // A new socket is writable long before the reactor says so: try, and ask afterwards.
        match send() {
            // Once more through the reactor, so that it knows.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.try_io(Interest::WRITABLE, send)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => send(),
            result => result,
        }
    }
}

const FLAGS: rustix::net::SendFlags = rustix::net::SendFlags::empty();

fn no_offload(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}
