//! The client's side of SOCKS5, blocking, for set-up; and its messages, for the loops.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Version 5, one method: none.
pub(crate) const GREETING: [u8; 3] = [5, 1, 0];
/// Length of an answer with an IPv4 address.
pub(crate) const REPLY: usize = 10;
/// Length of the header of a datagram to or from an IPv4 address.
pub(crate) const UDP_HEADER: usize = 10;

/// A proxy, and where the origins of the load lie as seen through it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via {
    /// Where the proxy takes SOCKS5.
    pub(crate) proxy: SocketAddr,
    /// The address that stands for loopback behind it, if it is another one.
    pub(crate) host: Option<Ipv4Addr>,
}

impl Via {
    /// What has to be asked for, so that `origin` is reached.
    pub(crate) fn target(&self, origin: SocketAddr) -> SocketAddr {
        self.host.map_or(origin, |host| (host, origin.port()).into())
    }
}

/// A request for `command` (1 connect, 3 associate) to an IPv4 address.
pub(crate) fn request(command: u8, target: SocketAddr) -> [u8; 10] {
    let mut message = [5, command, 0, 1, 0, 0, 0, 0, 0, 0];
    if let SocketAddr::V4(v4) = target {
        message[4..8].copy_from_slice(&v4.ip().octets());
    }
    message[8..].copy_from_slice(&target.port().to_be_bytes());
    message
}

/// A request to connect to a name.
pub(crate) fn request_name(name: &str, port: u16) -> Vec<u8> {
    let mut message = vec![5, 1, 0, 3, name.len() as u8];
    message.extend(name.as_bytes());
    message.extend(port.to_be_bytes());
    message
}

/// A stream to `origin` through a proxy, or straight to it without one.
pub(crate) fn connect(via: Option<Via>, origin: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(via.map_or(origin, |via| via.proxy)).context("connect")?;
    stream.set_nodelay(true)?;
    if let Some(via) = via {
        exchange(&stream, &request(1, via.target(origin)))?;
    }
    Ok(stream)
}

/// A UDP association: its TCP connection and a socket that is connected to the relay.
pub(crate) fn associate(proxy: SocketAddr) -> Result<(TcpStream, UdpSocket)> {
    let control = TcpStream::connect(proxy).context("connect")?;
    let reply = exchange(&control, &request(3, (Ipv4Addr::UNSPECIFIED, 0).into()))?;
    let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
    let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip };
    let relay = SocketAddr::from((ip, u16::from_be_bytes([reply[8], reply[9]])));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind UDP")?;
    socket.connect(relay).context("connect UDP")?;
    Ok((control, socket))
}

fn exchange(mut stream: &TcpStream, request: &[u8]) -> Result<[u8; REPLY]> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&GREETING)?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).context("read the chosen method")?;
    ensure!(method == [5, 0], "the proxy chose {method:?}");
    stream.write_all(request)?;
    let mut reply = [0; REPLY];
    stream.read_exact(&mut reply).context("read the reply")?;
    ensure!(reply[..2] == [5, 0], "the proxy refused with {}", reply[1]);
    Ok(reply)
}
