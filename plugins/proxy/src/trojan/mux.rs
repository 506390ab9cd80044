//! Several streams in one connection, as trojan-go has them: a session of smux, each stream of which begins with a command
//! and a destination (the reference, `transport/trojan/mux.go`).

use std::io;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::flow::{BoxStream, Flow, Prefixed};
use crosspoint_kernel::serve::{HANDSHAKE_TIMEOUT, handshake};
use crosspoint_layers::branches::Branches;
use crosspoint_layers::framed::Framed;
use crosspoint_layers::mux::bare;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::wire::{self, Command, Datagrams, MOST_MUX, RequestError};

/// Serves a session to its end; each of its streams goes out through `branches`. After `drain` it ends with the last of
/// them.
///
/// # Errors
/// The connection failed, or the client broke the protocol.
pub(super) async fn serve(
    stream: BoxStream,
    branches: Branches,
    drain: CancellationToken,
) -> io::Result<()> {
    bare::smux(stream, drain, |stream| {
        let branches = branches.clone();
        tokio::spawn(async move {
            let source = branches.source();
            match handshake(HANDSHAKE_TIMEOUT, begin(stream)).await {
                Ok((target, flow)) => drop(branches.conn(target, flow).await),
                Err(error) => debug!("multiplex stream from {source}: {error}"),
            }
        });
    })
    .await
}

/// Reads what a stream is for.
async fn begin(mut stream: BoxStream) -> io::Result<(Target, Flow)> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut held = Vec::with_capacity(MOST_MUX);
    let (command, target, len) = loop {
        match wire::parse_mux(&held) {
            Ok(found) => break found,
            Err(RequestError::Incomplete(_)) if held.len() < MOST_MUX => {
                if stream.read_buf(&mut held).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(invalid(error)),
        }
    };
    held.drain(..len);
    if !held.is_empty() {
        stream = Box::new(Prefixed::new(held.into(), stream));
    }
    let flow = match command {
        Command::Connect => Flow::Stream(stream),
        Command::Associate => Flow::Packet(Framed::boxed(stream, Datagrams, &[])),
        Command::Mux => return Err(invalid(RequestError::Command(0x7f))),
    };
    Ok((target, flow))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stream_says_what_it_is_for() {
        let to = Target::new("192.0.2.1", 53);
        for (command, stream) in [(Command::Connect, true), (Command::Associate, false)] {
            let (near, mut far) = tokio::io::duplex(1000);
            let mut bytes = Vec::new();
            wire::emit_mux(command, &to, &mut bytes);
            bytes.extend(b"payload");
            far.write_all(&bytes).await.unwrap();
            let (target, flow) = begin(Box::new(near)).await.unwrap();
            assert_eq!(target, to);
            match flow {
                Flow::Stream(mut inner) => {
                    let mut got = [0; 7];
                    inner.read_exact(&mut got).await.unwrap();
                    assert!(stream && &got == b"payload");
                }
                Flow::Packet(_) => assert!(!stream),
            }
        }
        for bad in [&[9u8, 1][..], &[1, 9], &[0x7f, 1, 127, 0, 0, 1, 0, 80], &[1, 1, 127]] {
            let (near, mut far) = tokio::io::duplex(1000);
            far.write_all(bad).await.unwrap();
            drop(far);
            assert!(begin(Box::new(near)).await.is_err(), "{bad:?}");
        }
    }
}
