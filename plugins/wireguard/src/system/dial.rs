//! The outbound face: sockets of the system that are bound to the interface.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crosspoint_kernel::{
    BoxFuture, BuildError, DialError,
    addr::{Host, Target},
    component::{BuildCx, Dial, Outbound},
    error::{DialClass, Side},
    flow::{Batch, BoxPacketIo, BoxStream, PacketIo, Stream},
    net::{dial::Dialer, udp::ResolvingPackets},
    snapshot::Plane,
};
use crosspoint_netstack::names;
use crosspoint_schema::options::DialOptions;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::System;
use crate::running::Running;

/// Dials through the interface. Names are resolved first (see [`names`]).
pub(crate) struct Dialled {
    dialer: Dialer,
    families: [bool; 2],
    plane: Arc<Plane>,
    keep: Arc<Running>,
}

impl Dialled {
    /// Dials through that interface. Flows keep `keep` alive.
    ///
    /// # Errors
    /// Those of [`Dialer::new`].
    pub(crate) fn new(
        system: &System,
        cx: &BuildCx,
        keep: Arc<Running>,
    ) -> Result<Self, BuildError> {
        let options = DialOptions {
            bind_interface: system.name().to_owned(),
            // As the stack does it, which takes any datagram. The reference loses those that are larger than the MTU.
            udp_fragment: Some(true),
            ..DialOptions::default()
        };
        let families = [true, false].map(|v4| system.speaks(v4));
        Ok(Self { dialer: Dialer::new(&options, cx)?, families, plane: cx.plane.clone(), keep })
    }

    fn speaks(&self, ip: IpAddr) -> bool {
        let [v4, v6] = self.families;
        if ip.is_ipv4() { v4 } else { v6 }
    }

    /// Addresses of a destination that the tunnel has an address for. Of the other family the system would take one
    /// of another interface, which no peer answers.
    async fn addresses(&self, dial: Dial<'_>) -> Result<Vec<IpAddr>, DialError> {
        let name = match &dial.target.host {
            Host::Ip(ip) if self.speaks(ip.to_canonical()) => return Ok(vec![ip.to_canonical()]),
            Host::Ip(ip) => {
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let text = format_args!("the tunnel has no {family} address");
                return Err(DialError::new(DialClass::HostUnreachable, Side::Local, text));
            }
            Host::Name(name) => name,
        };
        names::addresses(&self.plane, dial, name, |ip| self.speaks(ip)).await
    }

    async fn dial(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let mut last = None;
        for ip in self.addresses(dial).await? {
            match self.dialer.tcp(SocketAddr::new(ip, dial.target.port)).await {
                Ok(inner) => return Ok(Box::new(Kept { inner, _keep: self.keep.clone() })),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| DialError::unsupported("no address")))
    }

    async fn bind(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        let addresses = self.addresses(dial).await?;
        let first = addresses.first().copied();
        let ip = first.ok_or_else(|| DialError::unsupported("no address"))?;
        let target = Target::new(ip, dial.target.port);
        let inner = self.dialer.associate(dial.to(&target)).await?;
        let inner = KeptPackets { inner, _keep: self.keep.clone() };
        let Host::Name(name) = &dial.target.host else { return Ok(Box::new(inner)) };
        let unmapping = dial.session.is_some_and(|session| session.udp.disable_domain_unmapping);
        let resolver = names::resolver(self.plane.clone(), dial, ip.is_ipv4());
        let packets = ResolvingPackets::new(Box::new(inner), unmapping, resolver);
        Ok(Box::new(packets.with_known(name.clone(), ip)))
    }
}

impl Outbound for Dialled {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.dial(dial))
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(self.bind(dial))
    }
}

/// A connection that keeps the device alive. It is a socket of the system, and is spliced as one.
struct Kept {
    inner: TcpStream,
    _keep: Arc<Running>,
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
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Stream for Kept {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        Some(&mut self.inner)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr().ok()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Stream::socket(&self.inner)
    }
}

/// The same for datagrams.
struct KeptPackets {
    inner: BoxPacketIo,
    _keep: Arc<Running>,
}

impl PacketIo for KeptPackets {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, batch)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        self.inner.poll_send(cx, batch)
    }
}
