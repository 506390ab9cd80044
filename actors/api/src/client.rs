//! A blocking client of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::protocol::{Call, MAX_RESPONSE, Request, Response, VERSION};

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers at any of the places.
    #[error("cannot reach the daemon: {0}")]
    Unreachable(String),
    /// The conversation broke off.
    #[error("control socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("control socket {path}: {why}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the first of these sockets that answers.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with the reason for each.
    pub fn connect<P: AsRef<Path>>(paths: &[P]) -> Result<Self, ClientError> {
        let mut reasons = Vec::new();
        for path in paths {
            let path = path.as_ref();
            match UnixStream::connect(path) {
                Ok(stream) => {
                    return Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) });
                }
                Err(error) => {
                    let reason = error.to_string();
                    let reason = reason.split(" (os error").next().unwrap_or_default();
                    reasons.push(format!("{}: {reason}", path.display()));
                }
            }
        }
        Err(ClientError::Unreachable(reasons.join("; ")))
    }

    /// The socket that answered.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks, and waits for the answer up to `patience`.
    ///
    /// # Errors
    /// The conversation broke off, or the answer makes no sense. A refusal is a [`Response`].
    pub fn call(&mut self, call: Call, patience: Duration) -> Result<Response, ClientError> {
        let broken = |source| ClientError::Io { path: self.path.clone(), source };
        let protocol = |why| ClientError::Protocol { path: self.path.clone(), why };
        let socket = self.stream.get_ref();
        socket.set_write_timeout(Some(Duration::from_secs(10))).map_err(broken)?;
        socket.set_read_timeout(Some(patience)).map_err(broken)?;
        let mut line = serde_json::to_vec(&Request { v: VERSION, call })
            .map_err(|error| protocol(error.to_string()))?;
        line.push(b'\n');
        // A daemon that refuses this user answers without reading: its answer says more than EPIPE.
        let sent = self.stream.get_mut().write_all(&line);
        line.clear();
        let read = self.stream.by_ref().take(MAX_RESPONSE).read_until(b'\n', &mut line);
        if line.is_empty() {
            sent.and(read.map(|_| ())).map_err(broken)?;
            return Err(protocol("the daemon hung up without an answer".to_owned()));
        }
        serde_json::from_slice(&line).map_err(|error| protocol(format!("answer: {error}")))
    }
}
