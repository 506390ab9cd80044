//! Socket options that neither socket2 nor rustix offers. The only file of this module with `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

use super::os_text;

/// An integer socket option: level and name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntOpt(libc::c_int, libc::c_int);

/// `TCP_FASTOPEN`: length of the queue of fast-open requests of a listener; 0 turns it off.
const FASTOPEN: IntOpt = IntOpt(libc::IPPROTO_TCP, libc::TCP_FASTOPEN);
/// `TCP_FASTOPEN_CONNECT`: `connect` sends nothing while a cookie is at hand; the first write carries the SYN.
pub(crate) const FASTOPEN_CONNECT: IntOpt = IntOpt(libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT);
/// `IP_MTU_DISCOVER`.
const MTU_DISCOVER_V4: IntOpt = IntOpt(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
/// `IPV6_MTU_DISCOVER`.
const MTU_DISCOVER_V6: IntOpt = IntOpt(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER);
/// `IP_BIND_ADDRESS_NO_PORT`: the port is chosen at `connect`, so that many connections from one
/// address can share ports.
pub(crate) const BIND_NO_PORT: IntOpt = IntOpt(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
/// `SO_DOMAIN`: the address family of a socket (read only).
const DOMAIN: IntOpt = IntOpt(libc::SOL_SOCKET, libc::SO_DOMAIN);

/// Sets an integer option.
pub(crate) fn set(fd: impl AsFd, option: IntOpt, value: i32) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads exactly
    // `len` bytes of `value`, which lives until the call returns.
    let rc = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), option.0, option.1, (&raw const value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an integer option.
pub(crate) fn get(fd: impl AsFd, option: IntOpt) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most
    // `len` bytes, the size of `value`.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            option.0,
            option.1,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Binds to a network interface, or to none. Asks first: setting what is set already may need a
/// privilege that asking does not.
pub(crate) fn bind_interface(fd: impl AsFd, name: Option<&str>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let wanted = name.map(str::as_bytes);
    if socket.device()?.as_deref() == wanted {
        return Ok(());
    }
    socket.bind_device(wanted)
}

/// Sets the firewall mark; 0 is none. Asks first, as [`bind_interface`] does.
pub(crate) fn mark(fd: impl AsFd, mark: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    if socket.mark()? == mark { Ok(()) } else { socket.set_mark(mark) }
}

/// Turns keep-alive probes on (idle time before the first, interval between them) or off. Whole
/// seconds, rounded up.
pub(crate) fn keep_alive(fd: impl AsFd, times: Option<(Duration, Duration)>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let Some((idle, interval)) = times else { return socket.set_keepalive(false) };
    let whole = |d: Duration| {
        Duration::from_secs((d.as_secs() + u64::from(d.subsec_nanos() > 0)).clamp(1, 32767))
    };
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(whole(idle)).with_interval(whole(interval)),
    )
}

/// Lets other sockets bind to the same address: `SO_REUSEPORT`, and `SO_REUSEADDR` unless `keep_addr` says that
/// it is set anyway (every TCP listener has it, as in Go).
pub(crate) fn reuse(fd: impl AsFd, reuse: bool, keep_addr: bool) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    if !keep_addr && socket.reuse_address()? != reuse {
        socket.set_reuse_address(reuse)?;
    }
    if socket.reuse_port()? == reuse { Ok(()) } else { socket.set_reuse_port(reuse) }
}

/// Sends small segments at once.
pub(crate) fn nodelay(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd).set_tcp_nodelay(true)
}

/// Gives a socket buffers of that many bytes in both directions, or as much as the system allows: beyond its limits for
/// those who may pass them (`SO_RCVBUFFORCE`; socket(7)).
pub fn buffers(fd: impl AsFd, bytes: usize) {
    use rustix::net::sockopt as opt;
    // Smaller buffers cost throughput, not correctness.
    if opt::set_socket_recv_buffer_size_force(&fd, bytes).is_err() {
        let _ = opt::set_socket_recv_buffer_size(&fd, bytes);
    }
    if opt::set_socket_send_buffer_size_force(&fd, bytes).is_err() {
        let _ = opt::set_socket_send_buffer_size(&fd, bytes);
    }
}

/// Bytes that were written to a TCP socket and that the peer has not acknowledged yet, be they sent or waiting.
///
/// # Errors
/// The system does not tell.
pub fn unacked(fd: impl AsFd) -> io::Result<u32> {
    let mut left: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes one `int`
    // (`SIOCOUTQ`, which has the number of `TIOCOUTQ`; tcp(7)).
    let rc = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    if rc == 0 { Ok(u32::try_from(left).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Chooses the congestion control `brutal`, which sends at `rate` bytes per second whatever gets lost (tcp-brutal,
/// `TCP_BRUTAL_PARAMS`). Its gain is the one of Hysteria 2, 20 tenths.
///
/// # Errors
/// The kernel has no such module.
pub fn brutal(fd: impl AsFd, rate: u64) -> io::Result<()> {
    /// As the module reads it.
    #[repr(C)]
    struct Params {
        rate: u64,
        gain: u32,
        padding: u32,
    }
    const PARAMS: libc::c_int = 23_301;
    SockRef::from(&fd).set_tcp_congestion(b"brutal").map_err(|error| {
        let text = os_text(&error);
        let text = format!(
            "setsockopt IPPROTO_TCP TCP_CONGESTION brutal: {text}: please make sure you have installed the tcp-brutal kernel module"
        );
        io::Error::new(error.kind(), text)
    })?;
    let params = Params { rate, gain: 20, padding: 0 };
    let len = size_of::<Params>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads at most `len` bytes of
    // `params`, which lives until the call returns.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            PARAMS,
            (&raw const params).cast(),
            len,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Length of the queue of fast-open requests.
const FASTOPEN_QUEUE: i32 = 4096;

/// Accepts data in SYN segments, or not.
pub(crate) fn fast_open(fd: impl AsFd, accept: bool) -> io::Result<()> {
    match (accept, get(&fd, FASTOPEN)) {
        (true, _) => set(&fd, FASTOPEN, FASTOPEN_QUEUE),
        (false, Ok(1..)) => set(&fd, FASTOPEN, 0),
        (false, _) => Ok(()),
    }
}

/// Leads all connections to a group of listeners on one address to the one that joined it at that place,
/// counted from 0. A place that is not taken has no effect.
pub(crate) fn prefer(fd: impl AsFd, place: u32) -> io::Result<()> {
    // A classic BPF program of one instruction: return the place.
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut program = [libc::sock_filter { code, jt: 0, jf: 0, k: place }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads `len` bytes of
    // `filter` and one instruction of `program`, both of which live until the call returns.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            len,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forbids or allows fragments of UDP datagrams: the reference sets `PMTUDISC_DO`, the system's
/// default is `PMTUDISC_WANT`. Covers both families of a dual-stack socket.
pub(crate) fn udp_fragment(fd: impl AsFd, allow: bool) -> io::Result<()> {
    let value = if allow { libc::IP_PMTUDISC_WANT } else { libc::IP_PMTUDISC_DO };
    let set_if_new = |option| {
        if get(&fd, option)? == value { Ok(()) } else { set(&fd, option, value) }
    };
    set_if_new(MTU_DISCOVER_V4)?;
    if get(&fd, DOMAIN)? == libc::AF_INET6 { set_if_new(MTU_DISCOVER_V6) } else { Ok(()) }
}

/// What [`udp_fragment`] has set, when both families agree.
#[cfg(test)]
pub(crate) fn mtu_discover(fd: impl AsFd) -> io::Result<i32> {
    let v4 = get(&fd, MTU_DISCOVER_V4)?;
    if get(&fd, DOMAIN)? == libc::AF_INET6 && get(&fd, MTU_DISCOVER_V6)? != v4 {
        return Err(io::Error::other("families differ"));
    }
    Ok(v4)
}

/// Length of the queue of fast-open requests of a listener.
#[cfg(test)]
pub(crate) fn fast_open_queue(fd: impl AsFd) -> io::Result<i32> {
    get(fd, FASTOPEN)
}
