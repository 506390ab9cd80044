//! One end of a TCP connection behind a tunnel.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crosspoint_kernel::flow::Stream;
use smoltcp::socket::tcp::RecvError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::table::{Flow, Table};
use crate::packets::Packets;

/// One end of a TCP connection behind a tunnel. Bytes are copied once, between the caller's buffer and the socket's;
/// packets that they make leave in the caller's task.
pub struct TcpStream {
    table: Arc<Table>,
    flow: Arc<Flow>,
}

impl TcpStream {
    pub(super) fn new(table: Arc<Table>, flow: Arc<Flow>) -> Self {
        Self { table, flow }
    }

    /// The address behind the tunnel.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.key.remote
    }

    fn write(&mut self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut core = self.flow.core.lock();
        let socket = core.socket();
        let mut sent = 0;
        for buf in bufs {
            match socket.send_slice(buf) {
                Ok(len) => {
                    sent += len;
                    if len < buf.len() {
                        break;
                    }
                }
                Err(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        if sent == 0 && bufs.iter().any(|buf| !buf.is_empty()) {
            socket.register_send_waker(cx.waker());
            return Poll::Pending;
        }
        core.carried += sent;
        Packets::borrowed(|out| self.table.pump(&self.flow, &mut core, out));
        Poll::Ready(Ok(sent))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let mut core = own.flow.core.lock();
        let socket = core.socket();
        let before = buf.filled().len();
        // The bytes may lie in two pieces.
        while buf.remaining() > 0 && socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let len = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..len]);
                (len, len)
            });
            if !taken.is_ok_and(|len| len > 0) {
                break;
            }
        }
        if buf.filled().len() > before {
            // The peer may be waiting for room.
            Packets::borrowed(|out| own.table.pump(&own.flow, &mut core, out));
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match socket.recv(|_| (0, ())) {
            Ok(()) => {
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let mut core = own.flow.core.lock();
        core.socket().close();
        Packets::borrowed(|out| own.table.pump(&own.flow, &mut core, out));
        Poll::Ready(Ok(()))
    }
}

impl Stream for TcpStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.flow.key.local)
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        Packets::borrowed(|out| self.table.abandon(&self.flow, out));
    }
}
