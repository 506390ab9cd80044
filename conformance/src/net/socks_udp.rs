//! SOCKS5 UDP ASSOCIATE (RFC 1928 §7), without fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use tokio::net::{TcpStream, UdpSocket};

use super::socks::{deadline, push_address};
use super::{Socks, SocksError, Target};

/// A UDP association; ends when dropped, with its TCP connection.
#[derive(Debug)]
pub struct Association {
    control: TcpStream,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Socks {
    /// Opens a UDP association.
    ///
    /// # Errors
    /// [`SocksError`] of the request, or of the local socket.
    pub async fn associate(&self) -> Result<Association, SocksError> {
        let work = async {
            let mut control = TcpStream::connect(self.server).await?;
            let any: SocketAddr = match self.server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let mut relay = self.request5(&mut control, 3, &any.into()).await?;
            if relay.ip().is_unspecified() {
                relay.set_ip(self.server.ip());
            }
            let socket = UdpSocket::bind((control.local_addr()?.ip(), 0)).await?;
            socket.connect(relay).await?;
            Ok(Association { control, socket, relay })
        };
        deadline(work).await
    }
}

impl Association {
    /// The address that the server named for datagrams.
    pub fn relay(&self) -> SocketAddr {
        self.relay
    }

    /// The TCP connection that keeps the association alive.
    pub fn control(&mut self) -> &mut TcpStream {
        &mut self.control
    }

    /// Sends one datagram to `target`.
    ///
    /// # Errors
    /// Those of the socket, such as a datagram that is too long.
    pub async fn send_to(&self, target: &Target, payload: &[u8]) -> Result<()> {
        let mut datagram = vec![0, 0, 0];
        push_address(&mut datagram, target);
        datagram.extend(payload);
        self.socket.send(&datagram).await.context("send a SOCKS5 datagram")?;
        Ok(())
    }

    /// The next datagram and where the server says it came from.
    ///
    /// # Errors
    /// Those of the socket, or that the datagram has no valid header.
    pub async fn recv_from(&self) -> Result<(Target, Vec<u8>)> {
        let mut buf = vec![0; 65_536];
        let len = self.socket.recv(&mut buf).await.context("receive a SOCKS5 datagram")?;
        parse(&buf[..len]).with_context(|| format!("datagram of {len} bytes from the relay"))
    }

    /// Sends bytes as they are, for datagrams that break the rules.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send_raw(&self, datagram: &[u8]) -> Result<()> {
        self.socket.send(datagram).await.context("send a raw datagram")?;
        Ok(())
    }
}

fn parse(datagram: &[u8]) -> Result<(Target, Vec<u8>)> {
    let Some((&[0, 0, fragment, kind], rest)) = datagram.split_first_chunk::<4>() else {
        bail!("no SOCKS5 header");
    };
    if fragment != 0 {
        bail!("fragment {fragment}");
    }
    let (host, rest) = match kind {
        1 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ok(IpAddr::from(*ip)), rest)),
        4 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ok(IpAddr::from(*ip)), rest)),
        3 => rest.split_first().and_then(|(&len, rest)| {
            let (name, rest) = rest.split_at_checked(usize::from(len))?;
            Some((Err(String::from_utf8_lossy(name).into_owned()), rest))
        }),
        _ => bail!("address type {kind}"),
    }
    .context("header cut off")?;
    let (port, payload) = rest.split_first_chunk::<2>().context("header cut off")?;
    let port = u16::from_be_bytes(*port);
    let target = match host {
        Ok(ip) => Target::Addr(SocketAddr::new(ip, port)),
        Err(name) => Target::Name(name, port),
    };
    Ok((target, payload.to_vec()))
}
