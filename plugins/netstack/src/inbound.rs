//! The inbound face of an endpoint with a stack: flows of clients behind the tunnel go to the router.

use std::{
    any::Any,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use crosspoint_kernel::{
    addr::Target,
    component::{BuildCx, Conn},
    dispatch::Dispatch,
    flow::{Batch, Flow, PacketIo, Stream},
    serve,
    session::{Network, Session},
    snapshot::{PreMatch, Reject},
};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::warn;

use crate::{Association, Handler, Screen, TcpStream, Transport};

/// Whatever has to live as long as a flow does.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// Hands flows of clients behind a tunnel to the router. Rules that can decide before a connection is accepted do so.
pub struct Inbound {
    cx: ArcSwap<BuildCx>,
    /// Our networks: what is addressed to them goes to this machine itself.
    own: Vec<IpNet>,
    udp_timeout: Duration,
    keep: OnceLock<Weak<dyn Any + Send + Sync>>,
    refuses: bool,
}

impl Inbound {
    /// An inbound of that instance. Connections to an address of `own` go to the loopback address of this machine.
    #[must_use]
    pub fn new(cx: BuildCx, own: Vec<IpNet>, udp_timeout: Duration) -> Self {
        Self {
            cx: ArcSwap::from_pointee(cx),
            own,
            udp_timeout,
            keep: OnceLock::new(),
            refuses: false,
        }
    }

    /// The same for nobody: whoever comes is refused.
    #[must_use]
    pub fn refusing(self) -> Self {
        Self { refuses: true, ..self }
    }

    /// Flows keep that alive, as long as it lives when they begin. Said once.
    pub fn keeps(&self, what: Weak<dyn Any + Send + Sync>) {
        let _ = self.keep.set(what);
    }

    /// Another instance of the component takes new flows from now on.
    pub fn set_instance(&self, cx: BuildCx) {
        self.cx.store(Arc::new(cx));
    }

    fn keep(&self) -> Option<Keep> {
        self.keep.get().and_then(Weak::upgrade)
    }

    /// Where a flow to `target` really goes, if that is this machine.
    fn loopback(&self, target: SocketAddr) -> Option<SocketAddr> {
        let ip: IpAddr = match target.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let mine = self.own.iter().any(|net| net.contains(&target.ip()));
        mine.then(|| SocketAddr::new(ip, target.port()))
    }

    fn session(&self, network: Network, source: SocketAddr, target: SocketAddr) -> Box<Session> {
        let cx = self.cx.load();
        let id = cx.plane.ledger.next_id();
        let mut session = Session::new(id, cx.me.clone(), network, source, Target::from(target));
        session.udp.timeout = Some(self.udp_timeout);
        session
    }

    fn dispatch(&self, session: Box<Session>, flow: Flow) {
        let cx = self.cx.load_full();
        let Some(permit) = serve::permit() else {
            let source = session.source;
            warn!(component = %cx.me, "connection from {source} dropped: too many connections");
            return;
        };
        let dispatch = Dispatch::new(cx.plane.clone());
        tokio::spawn(async move { dispatch.conn(Conn { session, flow, permit }).await });
    }
}

impl Handler for Inbound {
    fn screen(&self, transport: Transport, source: SocketAddr, target: SocketAddr) -> Screen {
        if self.refuses {
            return Screen::Reset;
        }
        let cx = self.cx.load();
        // One that was taken away takes nothing new.
        if cx.cancel.is_cancelled() || serve::permits().available_permits() == 0 {
            return Screen::Drop;
        }
        let network = match transport {
            Transport::Tcp => Network::Tcp,
            Transport::Udp => Network::Udp,
        };
        let snapshot = cx.plane.snapshot.load_full();
        let mut session = Session::new(0, cx.me.clone(), network, source, Target::from(target));
        match snapshot.routes.pre_match(&mut session, &snapshot) {
            PreMatch::Accept => Screen::Accept,
            PreMatch::Reject(Reject::Refuse) => Screen::Reset,
            PreMatch::Reject(Reject::Drop) => Screen::Drop,
        }
    }

    fn stream(&self, source: SocketAddr, target: SocketAddr, stream: TcpStream) {
        let target = self.loopback(target).unwrap_or(target);
        let session = self.session(Network::Tcp, source, target);
        let stream = Kept { inner: stream, _keep: self.keep() };
        self.dispatch(session, Flow::Stream(Box::new(stream)));
    }

    fn packets(&self, source: SocketAddr, target: SocketAddr, packets: Association) {
        let loopback = self.loopback(target);
        let session = self.session(Network::Udp, source, loopback.unwrap_or(target));
        let map = loopback.map(|here| (Target::from(here), Target::from(target)));
        let packets = KeptPackets { inner: packets, map, _keep: self.keep() };
        self.dispatch(session, Flow::Packet(Box::new(packets)));
    }
}

/// A stream that keeps something alive.
pub(crate) struct Kept {
    pub(crate) inner: TcpStream,
    pub(crate) _keep: Option<Keep>,
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Stream for Kept {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }
}

/// An association that keeps something alive. What is addressed to us is shown as addressed to this machine.
pub(crate) struct KeptPackets {
    pub(crate) inner: Association,
    /// The address of this machine, and the one in the tunnel that it stands for.
    pub(crate) map: Option<(Target, Target)>,
    pub(crate) _keep: Option<Keep>,
}

impl PacketIo for KeptPackets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let before = batch.len();
        let received = self.inner.poll_recv(cx, batch);
        if let Some((here, there)) = &self.map {
            for at in before..batch.len() {
                if batch.peer(at) == there {
                    batch.set_peer(at, here.clone());
                }
            }
        }
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        if let Some((here, there)) = &self.map {
            for at in 0..batch.len() {
                if batch.peer(at) == here {
                    batch.set_peer(at, there.clone());
                }
            }
        }
        self.inner.poll_send(cx, batch)
    }
}
