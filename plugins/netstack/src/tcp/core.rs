//! One flow: a smoltcp interface that knows one address and one socket.

use std::{num::NonZeroUsize, time::Duration};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken},
    socket::tcp::{Socket, State},
    time::{Duration as SmolDuration, Instant},
    wire::{HardwareAddress, IpCidr},
};

use super::{Key, cut, endpoint, spare};
use crate::packets::Packets;

/// How long a peer may leave bytes or probes unanswered.
const SILENCE: SmolDuration = SmolDuration::from_secs(120);
/// An idle connection is probed this often, as Go programs do by default.
const PROBE: SmolDuration = SmolDuration::from_secs(60);
/// How long a connection may take to end when nobody holds it any more (Linux: tcp_fin_timeout).
const ORPHAN: SmolDuration = SmolDuration::from_secs(60);
/// An acknowledgement goes within this time (smoltcp: 10 ms); other timers of a closed connection take longer.
const ACKNOWLEDGED: SmolDuration = SmolDuration::from_millis(100);
/// Packets that leave at once before they are sent on: with the usual MTU, those of one large segment.
const BURST: usize = 40;

/// The state of one flow.
pub(super) struct Core {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mtu: usize,
    v6: bool,
    /// Bytes that went through it.
    pub(super) carried: usize,
    /// The number of the next byte from the peer, as it was told last.
    acknowledged: Option<u32>,
    /// The stream of it was handed out.
    pub(super) open: bool,
    /// A client behind the tunnel opened it.
    pub(super) accepted: bool,
    /// It was taken out of the table.
    pub(super) gone: bool,
    /// When its stream was dropped: nobody reads or writes any more.
    orphan: Option<Instant>,
}

impl Core {
    fn new(key: Key, mtu: usize, seed: u64) -> Self {
        let v6 = key.local.is_ipv6();
        let mut wire = Wire { rx: None, out: &mut Packets::new(), mtu, v6, ack: &mut None };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        let local = endpoint(key.local).addr;
        iface.update_ip_addrs(|addrs| {
            let bits = if v6 { 128 } else { 32 };
            // There is room for two.
            let _ = addrs.push(IpCidr::new(local, bits));
        });
        let (sockets, handle) = spare::take();
        Self {
            iface,
            sockets,
            handle,
            carried: 0,
            mtu,
            v6,
            acknowledged: None,
            open: false,
            accepted: false,
            gone: false,
            orphan: None,
        }
    }

    /// A flow that waits for the segment that opens it.
    pub(super) fn listen(key: Key, mtu: usize, seed: u64) -> Option<Self> {
        let mut core = Self::new(key, mtu, seed);
        core.socket().listen(endpoint(key.local)).ok()?;
        core.accepted = true;
        Some(core)
    }

    /// A flow that opens itself.
    pub(super) fn connect(key: Key, mtu: usize, seed: u64) -> Option<Self> {
        let mut core = Self::new(key, mtu, seed);
        let socket = core.sockets.get_mut::<Socket<'_>>(core.handle);
        socket.connect(core.iface.context(), endpoint(key.remote), endpoint(key.local)).ok()?;
        Some(core)
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The stream begins: from now on the limits of open connections hold.
    pub(super) fn opened(&mut self) {
        self.open = true;
        let socket = self.socket();
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(PROBE));
    }

    /// The stream was dropped. As a kernel socket does it: what was written still goes, what was not read is told with
    /// a reset.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.orphan = Some(now);
        let socket = self.socket();
        match socket.state() {
            State::Closed | State::TimeWait => {}
            _ if socket.recv_queue() > 0 => socket.abort(),
            _ => socket.close(),
        }
    }

    /// The number of the next byte from the peer, as it was told last.
    pub(super) fn acknowledged(&self) -> Option<u32> {
        self.acknowledged
    }

    /// Takes a packet from the tunnel; an answer that cannot wait goes to `out`.
    pub(super) fn feed(&mut self, now: Instant, packet: &[u8], out: &mut Packets) {
        self.carried += packet.len();
        let mut wire =
            Wire { rx: Some(packet), out, mtu: self.mtu, v6: self.v6, ack: &mut self.acknowledged };
        self.iface.poll_ingress_single(now, &mut wire, &mut self.sockets);
        // Nobody will ever read it: the peer should know.
        if self.orphan.is_some() && self.socket().recv_queue() > 0 {
            self.socket().abort();
        }
    }

    /// Writes what is due, and gives it to `send` in bursts.
    pub(super) fn pump(&mut self, now: Instant, out: &mut Packets, mut send: impl FnMut(&Packets)) {
        if self.orphan.is_some_and(|since| now >= since + ORPHAN) {
            self.socket().abort();
        }
        loop {
            let mut wire =
                Wire { rx: None, out, mtu: self.mtu, v6: self.v6, ack: &mut self.acknowledged };
            let more = self.iface.poll_egress(now, &mut wire, &mut self.sockets);
            if out.len() >= BURST || more == PollResult::None {
                if !out.is_empty() {
                    send(out);
                    out.clear();
                }
                if more == PollResult::None {
                    return;
                }
            }
        }
    }

    /// When it wants to be pumped again though nothing happens.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(now, &self.sockets);
        let end = self.orphan.map(|since| since + ORPHAN);
        let at = [at, end].into_iter().flatten().min()?;
        Some(at.max(now + SmolDuration::from_millis(1)))
    }

    /// Whether nothing can come of it any more. The peer's last acknowledgement is not waited for: what
    /// comes late is answered with a reset, when all data has been taken on both sides. One that listens after a segment
    /// has come was opened by nonsense, or the client has taken its opening back.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        match self.socket().state() {
            State::Closed | State::Listen => true,
            // Unless our own last acknowledgement is still to go, for which the peer would wait.
            State::TimeWait => {
                self.iface.poll_at(now, &self.sockets).is_none_or(|at| at > now + ACKNOWLEDGED)
            }
            _ => false,
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let sockets = std::mem::replace(&mut self.sockets, SocketSet::new(Vec::new()));
        spare::give(sockets, self.handle, self.carried);
    }
}

/// The time of a clock that began at `Duration::ZERO`.
pub(super) fn instant(since: Duration) -> Instant {
    Instant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The packet that comes, and those that go.
struct Wire<'a> {
    rx: Option<&'a [u8]>,
    out: &'a mut Packets,
    mtu: usize,
    v6: bool,
    ack: &'a mut Option<u32>,
}

impl Wire<'_> {
    fn tx(&mut self) -> Tx<'_> {
        Tx { out: self.out, size: None, mtu: self.mtu, ack: self.ack }
    }
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let rx = Rx(self.rx.take()?);
        Some((rx, self.tx()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(self.tx())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // What comes out of a tunnel is authentic. Who gets it at the other side checks: `cut` writes the sums.
        capabilities.checksum = ChecksumCapabilities::ignored();
        let (v4, v6) = (cut::largest(self.mtu, 40), cut::largest(self.mtu, 60));
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(v4);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(v6);
        if self.v6 {
            // smoltcp 0.14 drops segments of IPv6 that are larger than this though they may be cut: `cut` keeps to the
            // true size, and offers it to the peer.
            capabilities.max_transmission_unit = v6;
        }
        capabilities
    }
}

struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Tx<'a> {
    out: &'a mut Packets,
    /// Payload of the packets that the segment is to be cut into.
    size: Option<usize>,
    mtu: usize,
    ack: &'a mut Option<u32>,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let (result, ack) = cut::emit(self.out, len, self.size, self.mtu, f);
        *self.ack = ack.or(*self.ack);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.size = meta.segmentation_offload_size.map(|size| usize::from(size.get()));
    }
}
