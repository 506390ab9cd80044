//! Free ports for programs that cannot be told "any port".

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the kernel's ephemeral range (32768…), so that no outgoing connection takes one between
/// the check and the program's bind.
const FIRST: u32 = 10_000;
const SPAN: u32 = 22_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port on which TCP and UDP are free on 127.0.0.1 and ::1, and which this process has not
/// handed out before.
///
/// # Panics
/// When the whole range is taken: no test could go on.
pub fn free() -> u16 {
    // Test processes that run side by side start at different places.
    let start = std::process::id().wrapping_mul(197) % SPAN;
    for _ in 0..SPAN {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + (start + step) % SPAN) as u16;
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + SPAN);
}

/// `N` different free ports, see [`free`].
pub fn many<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free())
}

fn is_free(port: u16) -> bool {
    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
        .iter()
        .all(|addr| TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok())
}
