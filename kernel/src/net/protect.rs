//! Dial field `protect_path`: a descriptor is shown to a process that exempts it from a VPN.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{io::AsyncReadExt, io::Interest, net::UnixStream};

/// The other side answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `fd` to the Unix socket at `path` with one byte, and waits for one byte back (the protocol
/// of Android's `VpnService.protect` servers).
///
/// # Errors
/// No such socket, no answer, or the other side closed without one.
pub(crate) async fn protect(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let work = async {
        let mut server = UnixStream::connect(path).await.map_err(|e| {
            io::Error::new(e.kind(), format!("connect protect path: {}", super::os_text(&e)))
        })?;
        server
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [fd];
                control.push(SendAncillaryMessage::ScmRights(&fds));
                Ok(sendmsg(
                    server.as_fd(),
                    &[IoSlice::new(&[1])],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?)
            })
            .await?;
        match server.read(&mut [0u8]).await? {
            1 => Ok(()),
            _ => Err(io::Error::other("failed to protect fd")),
        }
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
