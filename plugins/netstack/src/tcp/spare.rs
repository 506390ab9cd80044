//! Sockets and their buffers. To make the buffers is dear, so those of short connections are used again.

use std::sync::Once;

use parking_lot::Mutex;
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer},
    time::Duration,
};

/// Bytes that may wait for a reader, which is also the window: enough for 40 Mbit/s at 100 ms. The memory is touched
/// only as far as bytes come.
const RECEIVE: usize = 512 * 1024;
/// Bytes that may wait for acknowledgement.
const SEND: usize = 512 * 1024;
/// How long a connection may take to open.
const OPENING: Duration = Duration::from_secs(15);
/// Sockets that are kept for connections to come.
const KEPT: usize = 64;
/// One through which more bytes went has touched too much memory to be kept.
const LITTLE: usize = 64 * 1024;

/// A set with one socket.
type Spare = (SocketSet<'static>, SocketHandle);

static SPARES: Mutex<Vec<Spare>> = Mutex::new(Vec::new());

/// A closed socket, with the limits of one that opens.
pub(super) fn take() -> Spare {
    let spare = SPARES.lock().pop();
    let (mut sockets, handle) = spare.unwrap_or_else(|| {
        static APART: Once = Once::new();
        // From the heap, a buffer would be cleared, and so touched, whenever one was freed before.
        APART.call_once(crosspoint_kernel::relay::large_blocks_apart);
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(Socket::new(buffer(RECEIVE), buffer(SEND)));
        (sockets, handle)
    });
    let socket = sockets.get_mut::<Socket<'_>>(handle);
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_keep_alive(None);
    socket.set_timeout(Some(OPENING));
    (sockets, handle)
}

/// Takes a socket back through which so many bytes went.
pub(super) fn give(mut sockets: SocketSet<'static>, handle: SocketHandle, carried: usize) {
    if carried > LITTLE {
        return;
    }
    // Whoever still waits for it is woken, and forgotten.
    sockets.get_mut::<Socket<'_>>(handle).abort();
    let mut spares = SPARES.lock();
    if spares.len() < KEPT {
        spares.push((sockets, handle));
    }
}
