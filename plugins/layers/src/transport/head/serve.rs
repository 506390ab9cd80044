//! The server's side of an upgrade: requests are answered until one is accepted.
//!
//! What does not fit is answered as the reference's server (Go, net/http) answers it, so that who probes a port learns
//! nothing about the program behind it. The connection stays open where HTTP says so.

use std::{
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use crosspoint_kernel::{
    flow::BoxStream,
    serve::{HANDSHAKE_TIMEOUT, handshake},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::parse::{self, Body, Line, MAX_HEAD, Reject, Request};
use crate::transport::AdmitError;

/// Requests of one connection that are answered without one that is accepted.
const MAX_REQUESTS: usize = 64;

/// Longest body of a refused request that is read to keep the connection, in bytes.
const MAX_BODY: u64 = 256 * 1024;

/// How long a client may take to read the last answer before the connection is closed.
const LINGER: Duration = Duration::from_millis(500);

/// What becomes of a request.
pub(crate) enum Decision<T> {
    /// The connection is no longer HTTP once `answer` is sent.
    Accept {
        /// The whole head.
        answer: Vec<u8>,
        /// What was found in the request.
        with: T,
    },
    /// An answer of that status without a body. Another request may follow.
    Refuse {
        /// The status.
        status: u16,
        /// For the log.
        why: String,
    },
    /// `answer` is the last.
    End {
        /// Head and body.
        answer: Vec<u8>,
        /// For the log.
        why: String,
    },
}

/// Why a connection ends without an upgrade.
enum Stop {
    Io(io::Error),
    /// The answer still to be sent, and why.
    Last(Vec<u8>, String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Last(rejected(reject), reject.to_string())
    }
}

/// Answers requests until `decide` accepts one. Returns what it found, and what came behind the request.
pub(crate) async fn serve<T>(
    stream: &mut BoxStream,
    mut decide: impl FnMut(&Request<'_>) -> Decision<T>,
) -> Result<(T, Bytes), AdmitError> {
    let mut held = Vec::with_capacity(1024);
    let mut refused: Option<String> = None;
    for _ in 0..MAX_REQUESTS {
        match handshake(HANDSHAKE_TIMEOUT, one(stream, &mut held, &mut decide)).await {
            Ok(Ok((with, used))) => {
                let rest =
                    if held.len() == used { Bytes::new() } else { Bytes::from(held).slice(used..) };
                return Ok((with, rest));
            }
            Ok(Err(why)) => {
                refused.get_or_insert(why);
            }
            Err(Stop::Io(error)) => {
                return Err(refused.map_or(AdmitError::Io(error), AdmitError::Refused));
            }
            Err(Stop::Last(answer, why)) => {
                // Whether the client reads it is its own business.
                let _ = tokio::time::timeout(LINGER, part(stream, &answer)).await;
                return Err(AdmitError::Refused(refused.unwrap_or(why)));
            }
        }
    }
    Err(AdmitError::Refused(refused.unwrap_or_default()))
}

/// Reads and answers one request. The outer error ends the connection, the inner one does not.
async fn one<T>(
    stream: &mut BoxStream,
    held: &mut Vec<u8>,
    decide: &mut impl FnMut(&Request<'_>) -> Decision<T>,
) -> Result<Result<(T, usize), String>, Stop> {
    let end = read_head(stream, held).await?;
    let request = Request::parse(held.get(..end).unwrap_or_default())?;
    let expects = request.fields.has("expect", "100-continue");
    let decision = if request.method == "OPTIONS" && request.uri.path.plain() == b"*" {
        Decision::Refuse { status: 200, why: "OPTIONS *".to_owned() }
    } else if !expects && !request.fields.get("expect").is_empty() {
        let why = "unknown expectation".to_owned();
        Decision::End { answer: refusal(&request, 417, true).into_bytes(), why }
    } else {
        decide(&request)
    };
    let (status, why) = match decision {
        Decision::Accept { answer, with } => {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            return Ok(Ok((with, end)));
        }
        Decision::End { answer, why } => return Err(Stop::Last(answer, why)),
        Decision::Refuse { status, why } => (status, why),
    };
    let body = match request.body {
        Body::Length(0) => Some(0),
        Body::Length(length) if length <= MAX_BODY && !expects => Some(length),
        _ => None,
    };
    let answer = refusal(&request, status, body.is_none() || request.last).into_bytes();
    let Some(body) = body.filter(|_| !request.last) else {
        return Err(Stop::Last(answer, why));
    };
    held.drain(..end);
    skip(stream, held, body).await?;
    stream.write_all(&answer).await?;
    stream.flush().await?;
    Ok(Err(why))
}

/// Reads until `held` begins with a whole head; returns its length.
async fn read_head(stream: &mut BoxStream, held: &mut Vec<u8>) -> Result<usize, Stop> {
    let (mut searched, mut checked) = (0, false);
    loop {
        let new = held.get(searched..).unwrap_or_default();
        if !checked && new.contains(&b'\n') {
            // A wrong first line is refused before the rest is there.
            checked = Line::parse(held)?.is_some();
        }
        if let Some(end) = parse::end(held, searched) {
            return Ok(end);
        }
        searched = held.len();
        if held.len() > MAX_HEAD {
            return Err(Reject { status: 431, reason: "" }.into());
        }
        if stream.read_buf(held).await? == 0 {
            return Err(Stop::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Drops `length` bytes of a body.
async fn skip(stream: &mut BoxStream, held: &mut Vec<u8>, length: u64) -> Result<(), Stop> {
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    loop {
        let n = left.min(held.len());
        held.drain(..n);
        left -= n;
        if left == 0 {
            return Ok(());
        }
        if stream.read_buf(held).await? == 0 {
            return Err(Stop::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Sends the last answer and waits until the client has gone: closing a socket with unread bytes would take the answer
/// back.
async fn part(stream: &mut BoxStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut scrap = vec![0; 4096];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

/// The answer to a request that does not fit. The order of the fields is that of the reference's server.
fn refusal(request: &Request<'_>, status: u16, last: bool) -> String {
    let mut text = format!("HTTP/1.{} {status} {}\r\n", request.minor, status_text(status));
    let mut fields = [
        format!("Date: {}\r\n", date()),
        if request.method == "HEAD" { "" } else { "Content-Length: 0\r\n" }.to_owned(),
        match (last, request.minor) {
            (true, 1..) => "Connection: close\r\n",
            (false, 0) => "Connection: keep-alive\r\n",
            _ => "",
        }
        .to_owned(),
    ];
    match status {
        200 => fields.swap(0, 1),
        417 => fields.rotate_right(1),
        _ => {}
    }
    text.extend(fields);
    text.push_str("\r\n");
    text
}

/// The answer to what is no request.
fn rejected(Reject { status, reason }: Reject) -> Vec<u8> {
    let name = status_text(status);
    let (line, body) = match (status, reason) {
        (_, "") => (format!("{status} {name}"), format!("{status} {name}")),
        (501, reason) => (format!("{status} {name}"), reason.to_owned()),
        (_, reason) => {
            let line = format!("{status} {name}: {reason}");
            (line.clone(), line)
        }
    };
    let plain = "Content-Type: text/plain; charset=utf-8";
    format!("HTTP/1.1 {line}\r\n{plain}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// The name of a status.
pub(crate) fn status_text(status: u16) -> &'static str {
    let status = http::StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or_default()
}

/// The time as heads say it.
pub(crate) fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    async fn answers(input: &[u8]) -> (Result<(String, Bytes), AdmitError>, String) {
        let (near, mut far): (DuplexStream, _) = duplex(1 << 20);
        let mut near: BoxStream = Box::new(near);
        far.write_all(input).await.unwrap();
        far.shutdown().await.unwrap();
        let result = serve(&mut near, |request| match request.uri.path.plain() {
            b"/yes" => {
                Decision::Accept { answer: b"YES".to_vec(), with: request.method.to_owned() }
            }
            path => Decision::Refuse { status: 404, why: String::from_utf8_lossy(path).into() },
        })
        .await;
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        let dates = text.lines().filter(|line| !line.starts_with("Date: "));
        (result, dates.collect::<Vec<_>>().join("|"))
    }

    #[tokio::test]
    async fn requests_are_answered_until_one_is_accepted() {
        let no = "POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let yes = "GET /yes HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let (result, text) = answers(format!("{no}{yes}").as_bytes()).await;
        let (method, rest) = result.unwrap();
        assert_eq!((method.as_str(), &rest[..]), ("GET", &b"rest"[..]));
        assert_eq!(text, "HTTP/1.1 404 Not Found|Content-Length: 0||YES");
    }

    #[tokio::test]
    async fn the_last_answer() {
        let close = "GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (result, text) = answers(close.as_bytes()).await;
        assert!(matches!(result, Err(AdmitError::Refused(why)) if why == "/no"));
        assert_eq!(text, "HTTP/1.1 404 Not Found|Content-Length: 0|Connection: close|");
        let old = answers(b"HEAD /no HTTP/1.0\r\n\r\n").await.1;
        assert_eq!(old, "HTTP/1.0 404 Not Found|");
        // The first line is enough.
        let garbage = answers(b"\x16\x03\x01\n").await.1;
        assert!(garbage.starts_with("HTTP/1.1 400 Bad Request|"), "{garbage}");
        let mut long = b"GET / HTTP/1.1\r\nA: ".to_vec();
        long.resize(MAX_HEAD + 4096, b'a');
        let long = answers(&long).await.1;
        assert!(long.starts_with("HTTP/1.1 431 Request Header Fields Too Large|"), "{long}");
    }

    #[tokio::test]
    async fn one_that_leaves_is_no_news() {
        assert!(matches!(answers(b"GET /").await.0, Err(AdmitError::Io(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_cut() {
        let (near, _far) = duplex(100);
        let mut near: BoxStream = Box::new(near);
        let result =
            serve(&mut near, |_| Decision::<()>::Refuse { status: 404, why: String::new() });
        let Err(AdmitError::Io(error)) = result.await else { panic!("not cut") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
