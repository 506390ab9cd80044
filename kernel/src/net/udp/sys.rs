//! Socket options around `quinn_udp`, which sets more than we want.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use libc::c_int;
use quinn_udp::UdpSocketState;
use tokio::net::UdpSocket;

fn get(fd: RawFd, level: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`; the caller borrows the
    // socket, so the descriptor is open.
    let rc = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    (rc == 0).then_some(value)
}

fn set(fd: RawFd, level: c_int, name: c_int, value: c_int) {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads exactly `len` bytes of `value`. A refusal leaves the option as it was,
    // which costs time, not correctness.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
}

/// Turns receive offload on and finds out about send offload. Fragmentation stays as the owner of
/// the socket has set it, and nothing is asked of the kernel for each packet that nobody reads:
/// `local` keeps the local address of received packets.
pub(super) fn prepare(socket: &UdpSocket, local: bool) -> io::Result<UdpSocketState> {
    const FRAGMENT: [(c_int, c_int); 3] = [
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    ];
    let fd = socket.as_raw_fd();
    let before = FRAGMENT.map(|(level, name)| get(fd, level, name));
    let state = UdpSocketState::new(socket.into())?;
    for ((level, name), value) in FRAGMENT.into_iter().zip(before) {
        if let Some(value) = value {
            set(fd, level, name, value);
        }
    }
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0);
    set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 0);
    let v6 = socket.local_addr().is_ok_and(|addr| addr.is_ipv6());
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 0);
    }
    if !local {
        set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 0);
        if v6 {
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 0);
        }
    }
    Ok(state)
}
