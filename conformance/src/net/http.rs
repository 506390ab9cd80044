//! HTTP/1.1 by hand: a small origin, and a proxy client for CONNECT and plain forwarding that
//! shows answers as they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::origin::{Counters, Origin};
use super::{Login, Target, within};

/// The body that [`http_origin`] serves at `/`.
pub const HELLO: &str = "crosspoint-origin\n";

/// An HTTP proxy and how to log in to it.
#[derive(Clone, Debug)]
pub struct HttpProxy {
    /// The proxy.
    pub server: SocketAddr,
    /// Credentials for `Proxy-Authorization: Basic`.
    pub login: Option<Login>,
}

/// The head and the body of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Header fields in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body, decoded from `Content-Length` or chunks, or up to the end of the connection.
    pub body: Vec<u8>,
}

impl Message {
    /// The status code of an answer; 0 when there is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The first header field of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Serves HTTP/1.1 with keep-alive. `/` answers [`HELLO`]; `/bytes/N` N bytes; `/chunked` a body
/// in chunks; `/headers` the request head as it arrived; `/status/N` that status; `/close` a body
/// that ends with the connection; a body sent to any other path comes back as it is.
///
/// # Errors
/// When `addr` cannot be bound.
pub async fn http_origin(addr: &str) -> Result<Origin> {
    Origin::tcp(addr, serve).await
}

async fn serve(mut stream: TcpStream, seen: Arc<Counters>) {
    let mut buffer = Vec::new();
    // A broken request ends the connection, as it would with a real server.
    while let Ok(Some(request)) = read_message(&mut stream, &mut buffer, Side::Request).await {
        seen.received.fetch_add(request.body.len() as u64, Ordering::Relaxed);
        let path = request.start.split(' ').nth(1).unwrap_or("/");
        let path = path.split('?').next().unwrap_or(path);
        let mut close = request.header("connection").is_some_and(|v| v.contains("close"));
        let (status, body) = match path.split('/').collect::<Vec<_>>()[..] {
            ["", ""] => (200, HELLO.as_bytes().to_vec()),
            ["", "bytes", n] => (200, vec![b'x'; n.parse().unwrap_or(0)]),
            ["", "status", n] => (n.parse().unwrap_or(500), Vec::new()),
            ["", "headers"] => (200, head_of(&request).into_bytes()),
            _ => (200, request.body.clone()),
        };
        let mut answer = format!("HTTP/1.1 {status} Said\r\nServer: crosspoint-origin\r\n");
        match path {
            "/chunked" => answer += "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "/close" => {
                answer += "Connection: close\r\n\r\nuntil the end\n";
                close = true;
            }
            // RFC 9110 §8.6: no length with these.
            _ if matches!(status, 100..200 | 204) => answer += "\r\n",
            _ => answer += &format!("Content-Length: {}\r\n\r\n", body.len()),
        }
        let mut bytes = answer.into_bytes();
        let no_body = matches!(path, "/chunked" | "/close") || request.start.starts_with("HEAD ");
        if !no_body {
            bytes.extend(body);
        }
        if stream.write_all(&bytes).await.is_err() || close {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

fn head_of(message: &Message) -> String {
    let mut text = format!("{}\n", message.start);
    for (key, value) in &message.headers {
        text += &format!("{key}: {value}\n");
    }
    text
}

impl HttpProxy {
    /// A proxy without credentials.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, login: None }
    }

    /// The same proxy with credentials.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(Login::new(user, password));
        self
    }

    /// A stream to `target` by CONNECT, and the proxy's answer.
    ///
    /// # Errors
    /// When the proxy does not answer in ten seconds.
    pub async fn try_connect(&self, target: &Target) -> Result<(TcpStream, Message)> {
        let head =
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", self.authorization());
        within("CONNECT", Duration::from_secs(10), async {
            let mut stream = TcpStream::connect(self.server).await?;
            stream.set_nodelay(true)?;
            stream.write_all(head.as_bytes()).await?;
            let answer = read_head_exactly(&mut stream).await?;
            anyhow::Ok((stream, answer))
        })
        .await
    }

    /// A stream to `target` by CONNECT.
    ///
    /// # Errors
    /// As [`HttpProxy::try_connect`], or when the proxy answers anything but 200.
    pub async fn connect(&self, target: &Target) -> Result<TcpStream> {
        let (stream, answer) = self.try_connect(target).await?;
        if answer.status() != 200 {
            bail!("CONNECT {target}: {}", answer.start);
        }
        Ok(stream)
    }

    /// Opens a connection for plain forwarding, on which several requests can follow each other.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub async fn open(&self) -> Result<Forward> {
        let stream = TcpStream::connect(self.server).await.context("connect to the proxy")?;
        Ok(Forward { stream, buffer: Vec::new(), authorization: self.authorization() })
    }

    fn authorization(&self) -> String {
        let Some(login) = &self.login else { return String::new() };
        let pair = base64(format!("{}:{}", login.user, login.password).as_bytes());
        format!("Proxy-Authorization: Basic {pair}\r\n")
    }
}

/// A connection to a proxy that forwards plain requests.
#[derive(Debug)]
pub struct Forward {
    stream: TcpStream,
    buffer: Vec<u8>,
    authorization: String,
}

impl Forward {
    /// Sends a request for an absolute URL such as `http://127.0.0.1:80/` and reads the answer.
    /// `headers` are complete lines, each with its CRLF.
    ///
    /// # Errors
    /// When no whole answer comes in ten seconds.
    pub async fn request(
        &mut self,
        method: &str,
        url: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Message> {
        let host = url.split('/').nth(2).context("an absolute URL")?;
        let mut head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\n{}", self.authorization);
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += headers;
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend(body);
        within(&format!("{method} {url}"), Duration::from_secs(10), async {
            self.stream.write_all(&bytes).await?;
            let side = Side::Answer { to_head: method == "HEAD" };
            let answer = read_message(&mut self.stream, &mut self.buffer, side).await?;
            answer.context("the proxy closed without an answer")
        })
        .await
    }
}

/// Reads the head of an answer byte by byte, so that nothing behind it is taken.
async fn read_head_exactly(stream: &mut TcpStream) -> Result<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 64 * 1024 {
            bail!("a head of more than 64 KiB");
        }
        head.push(stream.read_u8().await.context("the proxy closed before its answer ended")?);
    }
    parse_head(&head)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Answer { to_head: bool },
}

/// Reads one message; `None` when the connection ends before it begins.
async fn read_message(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    side: Side,
) -> Result<Option<Message>> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if more(stream, buffer).await? == 0 {
            if buffer.is_empty() {
                return Ok(None);
            }
            bail!("the connection ended inside a head");
        }
    };
    let mut message = parse_head(&buffer[..end])?;
    buffer.drain(..end);
    let chunked = message.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
    let length = message.header("content-length").and_then(|v| v.parse::<usize>().ok());
    let bodiless = side == Side::Answer { to_head: true }
        || matches!(side, Side::Answer { .. }) && matches!(message.status(), 100..200 | 204 | 304);
    if bodiless {
        return Ok(Some(message));
    }
    if chunked {
        message.body = read_chunks(stream, buffer).await?;
    } else if let Some(length) = length {
        fill(stream, buffer, length).await?;
        message.body = buffer.drain(..length).collect();
    } else if side != Side::Request {
        while more(stream, buffer).await? > 0 {}
        message.body = std::mem::take(buffer);
    }
    Ok(Some(message))
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(at) = find(buffer, b"\r\n") {
                break at;
            }
            fill(stream, buffer, buffer.len() + 1).await?;
        };
        let text = String::from_utf8_lossy(&buffer[..line]).into_owned();
        let size = usize::from_str_radix(text.split(';').next().unwrap_or("").trim(), 16)
            .with_context(|| format!("size of a chunk: {text:?}"))?;
        buffer.drain(..line + 2);
        fill(stream, buffer, size + 2).await?;
        body.extend(buffer.drain(..size));
        buffer.drain(..2);
        if size == 0 {
            return Ok(body);
        }
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, len: usize) -> Result<()> {
    while buffer.len() < len {
        if more(stream, buffer).await? == 0 {
            bail!("the connection ended inside a body ({} of {len} bytes)", buffer.len());
        }
    }
    Ok(())
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize> {
    buffer.reserve(16 * 1024);
    Ok(stream.read_buf(buffer).await?)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(head: &[u8]) -> Result<Message> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
        headers.push((key.to_owned(), value.trim().to_owned()));
    }
    Ok(Message { start, headers, body: Vec::new() })
}

/// Standard base64 with padding (RFC 4648 §4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |n, i| (n << 8) | u32::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let index = (group >> (18 - 6 * i)) as usize & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_agrees_with_rfc_4648() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
