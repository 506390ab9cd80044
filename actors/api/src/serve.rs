//! One client of the control socket.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    Control,
    handler::{self, After},
    protocol::{MAX_REQUEST, Request, Response, VERSION},
};

/// A client that says nothing for this long is sent away.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A client that does not take its answer for this long is sent away.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a client until it goes.
pub(crate) async fn client(control: Arc<Control>, stream: UnixStream) {
    if let Err(error) = converse(&control, stream).await {
        debug!("control client: {error}");
    }
}

async fn converse(control: &Control, stream: UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.into_split();
    if !trusted(peer.uid()) {
        warn!(
            uid = peer.uid(),
            pid = peer.pid(),
            "control client refused: not our user and not root"
        );
        return answer(
            &mut write,
            &Response::refused("you are neither the daemon's user nor root"),
        )
        .await;
    }
    let Ok(_permit) = control.clients().try_acquire() else {
        return answer(&mut write, &Response::refused("too many control clients")).await;
    };
    let mut lines = Lines { inner: BufReader::with_capacity(1024, read), line: Vec::new() };
    loop {
        let (response, after) = match timeout(READ_TIMEOUT, lines.next()).await {
            Err(_) | Ok(Ok(Line::End)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Line::TooLong)) => {
                let why = format!("a request has at most {MAX_REQUEST} bytes");
                return answer(&mut write, &Response::refused(why)).await;
            }
            Ok(Ok(Line::Request)) => match parse(&lines.line) {
                Ok(request) => handler::handle(control, request.call).await,
                Err(why) => (Response::refused(why), After::Nothing),
            },
        };
        let sent = answer(&mut write, &response).await;
        if after == After::Quit {
            control.set_drained();
        }
        sent?;
    }
}

fn trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn parse(line: &[u8]) -> Result<Request, String> {
    let request: Request =
        serde_json::from_slice(line).map_err(|error| format!("request: {error}"))?;
    if request.v != VERSION {
        return Err(format!("protocol version {} is not spoken here, but {VERSION}", request.v));
    }
    Ok(request)
}

async fn answer(write: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    timeout(WRITE_TIMEOUT, write.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

enum Line {
    Request,
    TooLong,
    End,
}

/// Lines of bounded length.
struct Lines {
    inner: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    /// Reads the next non-empty line into `self.line`.
    async fn next(&mut self) -> io::Result<Line> {
        self.line.clear();
        loop {
            let chunk = self.inner.fill_buf().await?;
            if chunk.is_empty() {
                // A last line without its end counts.
                let rest = !self.line.trim_ascii().is_empty();
                return Ok(if rest { Line::Request } else { Line::End });
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            self.line.extend_from_slice(&chunk[..taken]);
            self.inner.consume(taken);
            if self.line.len() > MAX_REQUEST {
                return Ok(Line::TooLong);
            }
            if end.is_some() {
                if !self.line.trim_ascii().is_empty() {
                    return Ok(Line::Request);
                }
                self.line.clear();
            }
        }
    }
}
