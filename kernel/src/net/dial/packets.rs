//! Datagram associations.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Dialer, Via, eyeballs, names::Names, settings::Settings};
use crate::{
    addr::{Host, Target},
    component::Dial,
    error::{DialClass, DialError, Side},
    flow::BoxPacketIo,
    net::{
        socket_error,
        udp::{Resolver, ResolvingPackets, UdpPackets},
    },
    resolve::Trail,
    session::Session,
    snapshot::Plane,
};

impl Dialer {
    /// Opens a datagram association whose first destination is `dial.target`. Packets may name other
    /// peers, by address or by name, unless the session asks for a connected socket (`udp_connect`).
    ///
    /// # Errors
    /// What the system, the resolver or the detour say.
    pub async fn associate(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        let connect = |s: &crate::session::Session| s.udp.connect && s.target == *dial.target;
        self.association(dial, dial.session.is_some_and(connect)).await
    }

    /// Opens an association with `dial.target` alone, for protocols that talk to one server.
    ///
    /// # Errors
    /// What the system, the resolver or the detour say.
    pub async fn associate_connected(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        self.association(dial, true).await
    }

    async fn association(&self, dial: Dial<'_>, connect: bool) -> Result<BoxPacketIo, DialError> {
        let name = match (&dial.target.host, &self.via) {
            (Host::Ip(ip), Via::Sockets(settings)) => {
                let packets = self.packets(settings, *ip, dial, connect, None).await?;
                return Ok(match connect {
                    true => Box::new(packets),
                    // Later packets may carry names.
                    false => Box::new(self.resolving(Box::new(packets), dial, families(*ip))),
                });
            }
            (Host::Name(name), via) if self.resolves || matches!(via, Via::Sockets(_)) => name,
            _ => {
                let slot = self.detour()?.ok_or_else(|| DialError::unsupported("no detour"))?;
                return slot.associate(dial).await;
            }
        };
        let addresses = self.addresses(dial, name).await?;
        let open = |ip| self.open(dial, connect, name, ip);
        eyeballs::serial(&addresses, &open).await
    }

    /// An association with a name whose address was found.
    async fn open(
        &self,
        dial: Dial<'_>,
        connect: bool,
        name: &Arc<str>,
        ip: IpAddr,
    ) -> Result<BoxPacketIo, DialError> {
        let inner: BoxPacketIo = match &self.via {
            Via::Detour { .. } | Via::Default => {
                let slot = self.detour()?.ok_or_else(|| DialError::unsupported("no detour"))?;
                slot.associate(dial.to(&Target::new(ip, dial.target.port))).await?
            }
            Via::Sockets(settings) if connect => {
                let shown = (!unmapping_disabled(dial)).then(|| dial.target.clone());
                return Ok(Box::new(self.packets(settings, ip, dial, true, shown).await?));
            }
            Via::Sockets(settings) => {
                Box::new(self.packets(settings, ip, dial, false, None).await?)
            }
        };
        let packets = self.resolving(inner, dial, families(ip));
        Ok(Box::new(packets.with_known(name.clone(), ip)))
    }

    async fn packets(
        &self,
        settings: &Settings,
        ip: IpAddr,
        dial: Dial<'_>,
        connect: bool,
        shown: Option<Target>,
    ) -> Result<UdpPackets, DialError> {
        let addr = SocketAddr::new(ip, dial.target.port);
        let snapshot = self.plane.snapshot.load_full();
        let packets = match connect {
            true => UdpPackets::connected(
                settings.udp_connected(addr, &snapshot.defaults).await?,
                shown,
            ),
            false => UdpPackets::new(settings.udp(Some(ip), 0, &snapshot.defaults).await?),
        };
        packets.map_err(|e| socket_error(format_args!("listen udp"), &e))
    }

    fn resolving(
        &self,
        inner: BoxPacketIo,
        dial: Dial<'_>,
        wanted: fn(&IpAddr) -> bool,
    ) -> ResolvingPackets {
        let session = dial.session.map(|session| Arc::new(session.clone()));
        let resolver =
            resolver(self.plane.clone(), self.names.clone(), session, dial.trail, wanted);
        ResolvingPackets::new(inner, unmapping_disabled(dial), resolver)
    }
}

fn unmapping_disabled(dial: Dial<'_>) -> bool {
    dial.session.is_some_and(|session| session.udp.disable_domain_unmapping)
}

/// The addresses that a socket which was made for `ip` can send to.
fn families(ip: IpAddr) -> fn(&IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) if !ip.is_unspecified() => IpAddr::is_ipv4,
        _ => |_| true,
    }
}

fn resolver(
    plane: Arc<Plane>,
    names: Arc<Names>,
    session: Option<Arc<Session>>,
    trail: &Trail,
    wanted: fn(&IpAddr) -> bool,
) -> Resolver {
    let trail = trail.clone();
    Box::new(move |name| {
        let (plane, names, session) = (plane.clone(), names.clone(), session.clone());
        let trail = trail.clone();
        Box::pin(async move {
            let addresses = names.lookup(&plane, &name, session.as_deref(), &trail).await?;
            addresses.into_iter().find(wanted).ok_or_else(|| {
                DialError::new(
                    DialClass::HostUnreachable,
                    Side::Target,
                    format_args!("{name} has no address of this socket's family"),
                )
            })
        })
    })
}
