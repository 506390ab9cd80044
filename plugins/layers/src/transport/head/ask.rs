//! The client's side of an upgrade: one request, one answer.

use std::io;

use bytes::Bytes;
use crosspoint_kernel::{
    DialError,
    error::Side,
    flow::BoxStream,
    serve::{HANDSHAKE_TIMEOUT, handshake},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::parse::{self, MAX_HEAD, Reject, Response};

/// Why an upgrade failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The connection broke, or was silent for too long.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer is no answer.
    #[error("unexpected answer: {0}")]
    Head(#[from] Reject),
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

impl AskError {
    /// As an error of the dial.
    pub(crate) fn dial(self) -> DialError {
        match self {
            Self::Io(error) => DialError::from_io(&error, Side::Proxy),
            error => DialError::protocol(error),
        }
    }

    /// As an error of the stream.
    pub(crate) fn io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Sends a request and reads the head of the answer, within the time limit of handshakes. Returns what came behind it.
pub(crate) async fn ask(
    stream: &mut BoxStream,
    request: &[u8],
    check: impl FnOnce(&Response<'_>) -> Result<(), String>,
) -> Result<Bytes, AskError> {
    handshake(HANDSHAKE_TIMEOUT, talk(stream, request, check)).await
}

async fn talk(
    stream: &mut BoxStream,
    request: &[u8],
    check: impl FnOnce(&Response<'_>) -> Result<(), String>,
) -> Result<Bytes, AskError> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut held = Vec::with_capacity(1024);
    let end = loop {
        let searched = held.len();
        if stream.read_buf(&mut held).await? == 0 {
            let text = "closed before its answer";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
        }
        if let Some(end) = parse::end(&held, searched) {
            break end;
        }
        if held.len() > MAX_HEAD {
            return Err(AskError::Refused("answer too long".to_owned()));
        }
    };
    check(&Response::parse(held.get(..end).unwrap_or_default())?).map_err(AskError::Refused)?;
    Ok(if held.len() == end { Bytes::new() } else { Bytes::from(held).slice(end..) })
}
