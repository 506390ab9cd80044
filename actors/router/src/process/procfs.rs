//! `/proc/net/{tcp,udp}{,6}`: the table of sockets where netlink is not allowed.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crosspoint_kernel::session::Network;

use super::{Socket, best};

/// The socket of the client at `source`.
pub(super) fn find(network: Network, source: SocketAddr) -> Option<Socket> {
    let tables: &[&str] = match (network, source) {
        (Network::Tcp, SocketAddr::V4(_)) => &["/proc/net/tcp", "/proc/net/tcp6"],
        (Network::Tcp, SocketAddr::V6(_)) => &["/proc/net/tcp6"],
        (Network::Udp, SocketAddr::V4(_)) => &["/proc/net/udp", "/proc/net/udp6"],
        (Network::Udp, SocketAddr::V6(_)) => &["/proc/net/udp6"],
    };
    tables.iter().find_map(|table| {
        let file = std::fs::File::open(table).ok()?;
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        best(lines.filter_map(|line| parse(&line)), source)
    })
}

/// One line: slot, local address, remote address, state, queues, timers, retransmissions, uid, timeout, inode, ….
fn parse(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let local = address(fields.nth(1)?)?;
    let uid = fields.nth(5)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Socket { local, inode, uid })
}

/// `0100007F:1F90`: 32-bit words in the byte order of the machine, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0000 100";
        let socket = parse(line).unwrap();
        assert_eq!(
            socket,
            Socket { local: "127.0.0.1:8080".parse().unwrap(), inode: 4242, uid: 1000 }
        );
        let six = address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(six, "[::1]:80".parse().unwrap());
        assert_eq!(
            parse(
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
            ),
            None
        );
    }

    #[test]
    fn finds_an_own_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = find(Network::Udp, socket.local_addr().unwrap());
        if std::path::Path::new("/proc/net/udp").exists() {
            assert!(found.is_some());
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(line in ".{0,80}", text in "[0-9A-F:]{0,40}") {
            let _ = (parse(&line), address(&text));
        }
    }
}
