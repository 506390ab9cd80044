//! `sock_diag(7)`: the kernel's own table of sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use crosspoint_kernel::session::Network;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::{Socket, best};

// Numbers of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;
const MESSAGE: usize = 72;

/// Messages of one dump that are looked at: a port is shared by few sockets.
const MAX_MESSAGES: usize = 4096;

/// The socket of the client at `source`.
///
/// # Errors
/// When the kernel refuses the question.
pub(super) fn find(
    network: Network,
    source: SocketAddr,
    here: Option<SocketAddr>,
) -> io::Result<Option<Socket>> {
    let netlink = open()?;
    // Exact first: one hash lookup in the kernel. It also finds IPv4 connections of IPv6 sockets.
    if let (Network::Tcp, Some(here)) = (network, here)
        && here.is_ipv4() == source.is_ipv4()
        && let Ok(Some(socket)) = ask(&netlink, network, family(source), source, Some(here))
    {
        return Ok(Some(socket));
    }
    if let Some(socket) = ask(&netlink, network, family(source), source, None)? {
        return Ok(Some(socket));
    }
    // A dual-stack socket with an IPv4 peer is listed among the IPv6 ones.
    if source.is_ipv4() { ask(&netlink, network, AF_INET6, source, None) } else { Ok(None) }
}

fn family(addr: SocketAddr) -> u8 {
    if addr.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn open() -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // Answers are ready when the question has been sent; the limit only guards against a kernel that has none.
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(Duration::from_millis(200)))?;
    Ok(fd)
}

fn ask(
    netlink: &OwnedFd,
    network: Network,
    family: u8,
    source: SocketAddr,
    peer: Option<SocketAddr>,
) -> io::Result<Option<Socket>> {
    rustix::net::send(netlink, &request(network, family, source, peer), SendFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    let (mut found, mut seen) = (Vec::new(), 0);
    loop {
        let (len, _) = rustix::net::recv(netlink, &mut *buffer, RecvFlags::empty())?;
        for message in Messages(buffer.get(..len).unwrap_or_default()) {
            seen += 1;
            match message {
                (NLMSG_DONE, _) => return Ok(best(found, source)),
                (NLMSG_ERROR, body) => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code.checked_neg().unwrap_or(0) {
                        // ENOENT: no such socket.
                        0 | 2 => Ok(best(found, source)),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
                (SOCK_DIAG_BY_FAMILY, body) => found.extend(parse(body)),
                _ => {}
            }
            if peer.is_some() && !found.is_empty() {
                return Ok(best(found, source));
            }
        }
        if len == 0 || seen > MAX_MESSAGES {
            return Ok(best(found, source));
        }
    }
}

/// A `nlmsghdr` and an `inet_diag_req_v2`. With a peer it asks for that connection, without for every socket
/// on the source port: a dump cannot be narrowed by address.
fn request(
    network: Network,
    family: u8,
    source: SocketAddr,
    peer: Option<SocketAddr>,
) -> [u8; HEADER + 56] {
    let mut out = [0; HEADER + 56];
    let flags = if peer.is_some() { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_DUMP };
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &((HEADER + 56) as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &flags.to_ne_bytes());
    put(16, &[family, if network == Network::Tcp { 6 } else { 17 }]);
    // All states.
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &source.port().to_be_bytes());
    if let Some(peer) = peer {
        put(26, &peer.port().to_be_bytes());
        put_ip(&mut put, 28, source.ip());
        put_ip(&mut put, 44, peer.ip());
    }
    // No cookie.
    put(64, &[0xff; 8]);
    out
}

fn put_ip(put: &mut impl FnMut(usize, &[u8]), at: usize, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => put(at, &ip.octets()),
        IpAddr::V6(ip) => put(at, &ip.octets()),
    }
}

/// An `inet_diag_msg`.
fn parse(body: &[u8]) -> Option<Socket> {
    let body: &[u8; MESSAGE] = body.first_chunk()?;
    let port = u16::from_be_bytes([body[4], body[5]]);
    let ip = match body[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*body[8..].first_chunk::<4>()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(*body[8..].first_chunk::<16>()?)),
        _ => return None,
    };
    Some(Socket {
        local: SocketAddr::new(ip, port),
        uid: u32::from_ne_bytes(*body[64..].first_chunk()?),
        inode: u64::from(u32::from_ne_bytes(*body[68..].first_chunk()?)),
    })
}

/// Type and body of each message of a netlink datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let len = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_any_shape_end() {
        proptest::proptest!(|(bytes in proptest::collection::vec(0u8..32, 0..200))| {
            for (_, body) in Messages(&bytes) {
                let _ = parse(body);
            }
        });
    }

    #[test]
    fn a_message_is_read() {
        let mut body = [0u8; MESSAGE];
        body[0] = AF_INET;
        body[4..6].copy_from_slice(&80u16.to_be_bytes());
        body[8..12].copy_from_slice(&[127, 0, 0, 1]);
        body[64..68].copy_from_slice(&1000u32.to_ne_bytes());
        body[68..72].copy_from_slice(&4242u32.to_ne_bytes());
        let socket = parse(&body).unwrap();
        assert_eq!(
            socket,
            Socket { local: "127.0.0.1:80".parse().unwrap(), inode: 4242, uid: 1000 }
        );
        assert_eq!(parse(&body[1..]), None);
    }
}
