//! The outbound face of an endpoint with a stack: connections of our own through the tunnel.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crosspoint_kernel::{
    BoxFuture, DialError,
    addr::{Host, Target},
    component::{Dial, Outbound},
    error::Side,
    flow::{BoxPacketIo, BoxStream},
    net::udp::ResolvingPackets,
    snapshot::Plane,
};

use crate::{
    Netstack,
    inbound::{Keep, Kept, KeptPackets},
    names,
};

/// Dials through a tunnel. Names are resolved first (see [`names`]).
pub struct Dialled {
    stack: Arc<Netstack>,
    plane: Arc<Plane>,
    keep: Keep,
}

impl Dialled {
    /// Dials through that stack. Flows keep `keep` alive.
    #[must_use]
    pub fn new(stack: Arc<Netstack>, plane: Arc<Plane>, keep: Keep) -> Self {
        Self { stack, plane, keep }
    }

    /// Addresses of a destination that the tunnel has an address for.
    async fn addresses(&self, dial: Dial<'_>) -> Result<Vec<IpAddr>, DialError> {
        let name = match &dial.target.host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Name(name) => name,
        };
        names::addresses(&self.plane, dial, name, |ip| self.stack.speaks(ip)).await
    }

    async fn dial(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let port = dial.target.port;
        let mut last = None;
        for ip in self.addresses(dial).await? {
            let addr = SocketAddr::new(ip, port);
            match self.stack.connect(addr).await {
                Ok(inner) => return Ok(Box::new(Kept { inner, _keep: Some(self.keep.clone()) })),
                Err(error) => last = Some(failed(addr, &error)),
            }
        }
        Err(last.unwrap_or_else(|| DialError::unsupported("no address")))
    }

    async fn bind(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        let addresses = self.addresses(dial).await?;
        let first = addresses.first().copied();
        let ip = first.ok_or_else(|| DialError::unsupported("no address"))?;
        let inner = self.stack.associate(ip);
        let inner = inner.map_err(|error| failed(SocketAddr::new(ip, dial.target.port), &error))?;
        let inner = Box::new(KeptPackets { inner, map: None, _keep: Some(self.keep.clone()) });
        let unmapping = dial.session.is_some_and(|session| session.udp.disable_domain_unmapping);
        let resolver = names::resolver(self.plane.clone(), dial, ip.is_ipv4());
        let packets = ResolvingPackets::new(inner, unmapping, resolver);
        Ok(Box::new(match &dial.target.host {
            Host::Name(name) => packets.with_known(name.clone(), ip),
            Host::Ip(_) => packets,
        }))
    }
}

fn failed(addr: SocketAddr, error: &io::Error) -> DialError {
    DialError::from_io(error, Side::Target).context(format_args!("dial {}", Target::from(addr)))
}

impl Outbound for Dialled {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.dial(dial))
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(self.bind(dial))
    }
}
