//! One face for every way to reach a target, so that a suite is written once.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpStream, UdpSocket};

use super::http::HttpProxy;
use super::{Association, Socks, Target, within};

/// A way to reach a target.
#[derive(Clone, Debug)]
pub enum Via {
    /// Without a proxy: checks the suites themselves.
    Direct,
    /// Through a SOCKS server.
    Socks(Socks),
    /// Through an HTTP proxy, by CONNECT. There is no UDP.
    Http(HttpProxy),
    /// Through an inbound that has a fixed destination: connects to it whatever the target is.
    Forwarded {
        /// Where TCP goes in.
        tcp: std::net::SocketAddr,
        /// Where UDP goes in.
        udp: std::net::SocketAddr,
    },
}

/// A way for datagrams to reach a target.
#[derive(Debug)]
pub enum Datagrams {
    /// A connected socket.
    Plain(UdpSocket),
    /// A SOCKS5 association.
    Socks(Box<Association>, Target),
}

impl From<Socks> for Via {
    fn from(socks: Socks) -> Self {
        Via::Socks(socks)
    }
}

impl From<HttpProxy> for Via {
    fn from(http: HttpProxy) -> Self {
        Via::Http(http)
    }
}

impl Via {
    /// A stream to `target`.
    ///
    /// # Errors
    /// When it cannot be had in ten seconds; the text names the way and the target.
    pub async fn tcp(&self, target: &Target) -> Result<TcpStream> {
        let connect = async {
            match self {
                Via::Direct => match target {
                    Target::Addr(addr) => Ok(TcpStream::connect(addr).await?),
                    Target::Name(name, port) => {
                        Ok(TcpStream::connect((name.as_str(), *port)).await?)
                    }
                },
                Via::Socks(socks) => Ok(socks.connect(target).await?),
                Via::Http(http) => http.connect(target).await,
                Via::Forwarded { tcp, .. } => Ok(TcpStream::connect(tcp).await?),
            }
        };
        within(&format!("reach {target}"), Duration::from_secs(10), connect).await
    }

    /// Datagrams to and from `target`.
    ///
    /// # Errors
    /// When there is no such way, or the proxy refuses.
    pub async fn udp(&self, target: &Target) -> Result<Datagrams> {
        let to = match (self, target) {
            (Via::Socks(socks), _) => {
                let association = socks.associate().await.context("UDP ASSOCIATE")?;
                return Ok(Datagrams::Socks(Box::new(association), target.clone()));
            }
            (Via::Http(_), _) => bail!("an HTTP proxy carries no UDP"),
            (Via::Forwarded { udp, .. }, _) => *udp,
            (Via::Direct, Target::Addr(addr)) => *addr,
            (Via::Direct, Target::Name(name, port)) => {
                let mut found = tokio::net::lookup_host((name.as_str(), *port)).await?;
                found.next().context("a name without address")?
            }
        };
        let any = match (to.ip().is_loopback(), to.is_ipv4()) {
            (true, true) => "127.0.0.1:0",
            (true, false) => "[::1]:0",
            (false, true) => "0.0.0.0:0",
            (false, false) => "[::]:0",
        };
        let socket = UdpSocket::bind(any).await.context("bind UDP")?;
        socket.connect(to).await.with_context(|| format!("connect UDP to {to}"))?;
        Ok(Datagrams::Plain(socket))
    }

    /// Bytes that this way puts in front of a datagram to `target`.
    pub fn datagram_overhead(&self, target: &Target) -> usize {
        match (self, target) {
            (Via::Socks(_), Target::Addr(addr)) if addr.is_ipv4() => 10,
            (Via::Socks(_), Target::Addr(_)) => 22,
            (Via::Socks(_), Target::Name(name, _)) => 7 + name.len(),
            _ => 0,
        }
    }
}

impl Datagrams {
    /// Sends one datagram.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&self, payload: &[u8]) -> Result<()> {
        match self {
            Datagrams::Plain(socket) => {
                socket.send(payload).await.context("send a datagram")?;
                Ok(())
            }
            Datagrams::Socks(association, target) => association.send_to(target, payload).await,
        }
    }

    /// The next datagram.
    ///
    /// # Errors
    /// Those of the socket, or a header that is not valid.
    pub async fn recv(&self) -> Result<Vec<u8>> {
        match self {
            Datagrams::Plain(socket) => {
                let mut buf = vec![0; 65_536];
                let len = socket.recv(&mut buf).await.context("receive a datagram")?;
                buf.truncate(len);
                Ok(buf)
            }
            Datagrams::Socks(association, _) => Ok(association.recv_from().await?.1),
        }
    }
}
