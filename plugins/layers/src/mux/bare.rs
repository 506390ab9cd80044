//! Sessions of smux alone, without what sing-mux puts around them.

use std::io;

use crosspoint_kernel::flow::BoxStream;
use tokio_util::sync::CancellationToken;

use super::{carrier::Carrier, driver, frame::Dialect, session::Session};

/// Runs the server's end of a session of smux (version 1) to its end. Its streams go to `accept`. After `drain` it ends with
/// the last of them.
///
/// # Errors
/// The connection failed, or the client broke the protocol.
pub async fn smux(
    stream: BoxStream,
    drain: CancellationToken,
    mut accept: impl FnMut(BoxStream) + Send,
) -> io::Result<()> {
    let session = Session::new(Dialect::Smux, false, stream.local_addr());
    let carrier = Carrier::server(stream, false);
    let work = driver::run(session.clone(), carrier, |stream| accept(Box::new(stream)));
    tokio::pin!(work);
    tokio::select! {
        end = &mut work => end,
        () = drain.cancelled() => {
            session.drain();
            work.await
        }
    }
}
