//! Reading without holding a buffer while waiting.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crosspoint_kernel::flow::BoxStream;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

/// Bytes read at once: more than any SOCKS handshake, and most HTTP heads.
const ROOM: usize = 2048;

/// Reads what there is and shows it to `take`. The buffer is on the stack of this call, so that a task which waits
/// holds none. Ready with the number of bytes, 0 at the end of the stream.
pub(crate) fn read_some(
    stream: &mut BoxStream,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; ROOM];
    let mut buffer = ReadBuf::uninit(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    let bytes = buffer.filled();
    if !bytes.is_empty() {
        take(bytes);
    }
    Poll::Ready(Ok(bytes.len()))
}

/// Says a last word and closes. What the client still sends is read for a moment: closing over unread bytes makes
/// the system reset the connection, and the word is lost.
pub(crate) async fn farewell(mut stream: BoxStream, word: &[u8]) {
    let last = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        let mut sink = [0u8; 512];
        for _ in 0..256 {
            if stream.read(&mut sink).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // The client may be gone, or may never close: there is nothing more to do for it.
    let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
}
