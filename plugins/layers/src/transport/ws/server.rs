//! The server side.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use crosspoint_kernel::{
    BoxFuture,
    flow::{BoxStream, Prefixed},
};
use crosspoint_schema::options::WsTransport;

use super::{
    accept_key,
    stream::{Role, WsStream},
};
use crate::transport::{
    AdmitError, Arrived, Carried, Guests, Server, Side,
    head::{self, Decision, Headers, parse::Request, serve, source, status_text},
};

/// As the reference reads it: without padding, whatever the bits behind the last byte are.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The server side that the options describe.
pub(crate) fn server(options: &WsTransport) -> Side<dyn Server> {
    // The reference asks TLS for no application protocol here.
    Side { alpn: &[], of: Box::new(WsServer::new(options)) }
}

/// Accepts one stream for each connection.
pub(crate) struct WsServer {
    path: String,
    /// Data may be in the path.
    in_path: bool,
    early_header: String,
    /// Further fields of the answer.
    fields: Vec<u8>,
}

impl WsServer {
    fn new(options: &WsTransport) -> Self {
        let mut fields = Vec::new();
        Headers::canonical(&options.headers).emit(&mut fields, head::is_own_field);
        Self {
            path: head::server_path(&options.path),
            in_path: options.max_early_data > 0 && options.early_data_header_name.is_empty(),
            early_header: options.early_data_header_name.clone(),
            fields,
        }
    }

    /// The data that a request holds, or the status for one that does not belong here.
    fn early_data(&self, request: &Request<'_>) -> Result<Vec<u8>, (u16, String)> {
        let path = request.uri.path.plain();
        let bad_path = || (404, format!("bad path: {}", String::from_utf8_lossy(path)));
        if !self.in_path && path != self.path.as_bytes() {
            return Err(bad_path());
        }
        let target;
        let text = if self.early_header.is_empty() {
            // Looked for even where none may be: what is behind the path, a query for example, is no data.
            target = request.uri.request();
            target.strip_prefix(self.path.as_str()).ok_or_else(bad_path)?.as_bytes()
        } else {
            request.fields.get(&self.early_header)
        };
        LENIENT.decode(text).map_err(|error| (400, format!("decode early data: {error}")))
    }

    fn decide(&self, request: &Request<'_>) -> Decision<Vec<u8>> {
        let data = match self.early_data(request) {
            Ok(data) => data,
            Err((status, why)) => return Decision::Refuse { status, why },
        };
        match check(request) {
            Ok(key) => {
                let mut answer = Vec::with_capacity(160 + self.fields.len());
                answer.extend(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
                answer.extend(b"Connection: Upgrade\r\nSec-WebSocket-Accept: ");
                answer.extend(accept_key(key).as_bytes());
                answer.extend(b"\r\n");
                answer.extend(&self.fields);
                answer.extend(b"\r\n");
                Decision::Accept { answer, with: data }
            }
            Err((status, why)) => {
                let why = format!("handshake error: {why}");
                let mut answer = format!("HTTP/1.1 {status} {}\r\n", status_text(status));
                answer.push_str("Content-Type: text/plain; charset=utf-8\r\n");
                if status == 426 {
                    answer.push_str("Sec-WebSocket-Version: 13\r\n");
                }
                answer.push_str(&format!("Content-Length: {}\r\n\r\n{why}", why.len()));
                Decision::End { answer: answer.into_bytes(), why }
            }
        }
    }
}

/// The key of a request that wants WebSocket, or status and text for one that does not; the order of the checks is that
/// of the reference (gobwas/ws, `HTTPUpgrader`).
///
/// # Errors
/// That status and text.
pub fn check<'a>(request: &'a Request<'_>) -> Result<&'a [u8], (u16, &'static str)> {
    let fields = &request.fields;
    if request.method != "GET" {
        return Err((405, "bad HTTP request method"));
    }
    if request.minor == 0 {
        return Err((505, "bad HTTP protocol version"));
    }
    if request.host.is_empty() {
        return Err((400, "bad \"Host\" header"));
    }
    if !fields.is("upgrade", "websocket") {
        return Err((400, "bad \"Upgrade\" header"));
    }
    if !fields.has("connection", "upgrade") {
        return Err((400, "bad \"Connection\" header"));
    }
    let key = fields.get("sec-websocket-key");
    if key.len() != 24 {
        return Err((400, "bad \"Sec-WebSocket-Key\" header"));
    }
    match fields.get("sec-websocket-version") {
        b"13" => Ok(key),
        b"" => Err((400, "bad \"Sec-WebSocket-Version\" header")),
        _ => Err((426, "bad \"Sec-WebSocket-Version\" header")),
    }
}

/// The bytes in the messages of a connection, at the server: the handshake is over.
#[must_use]
pub fn upgraded(stream: BoxStream) -> BoxStream {
    Box::new(WsStream::new(stream, Role::Server))
}

impl Server for WsServer {
    fn admit<'a>(
        &'a self,
        carried: Carried,
        guests: &'a Guests,
    ) -> BoxFuture<'a, Result<Option<Arrived>, AdmitError>> {
        Box::pin(async move {
            let Carried { mut stream, alpn } = carried;
            let mut from = None;
            let (data, rest) = serve(&mut stream, |request| {
                from = source(&request.fields, guests.peer());
                self.decide(request)
            })
            .await?;
            let stream = ahead(rest, stream);
            let stream = ahead(data.into(), upgraded(stream));
            Ok(Some(Arrived { stream, alpn, source: from }))
        })
    }
}

/// A stream with bytes in front of it, if there are any.
fn ahead(bytes: Bytes, stream: BoxStream) -> BoxStream {
    if bytes.is_empty() { stream } else { Box::new(Prefixed::new(bytes, stream)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn options(path: &str, max: u32, header: &str) -> WsTransport {
        WsTransport {
            path: path.to_owned(),
            max_early_data: max,
            early_data_header_name: header.to_owned(),
            ..WsTransport::default()
        }
    }

    /// The data, or the status.
    fn asked(options: &WsTransport, target: &str, fields: &str) -> Result<String, u16> {
        let head = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
        match WsServer::new(options).decide(&Request::parse(head.as_bytes()).unwrap()) {
            Decision::Accept { with, .. } => Ok(String::from_utf8(with).unwrap()),
            Decision::Refuse { status, .. } => Err(status),
            Decision::End { answer, .. } => {
                Err(String::from_utf8(answer).unwrap()[9..12].parse().unwrap())
            }
        }
    }

    /// What the reference answers to the same requests.
    #[test]
    fn paths_and_early_data() {
        let plain = options("x", 0, "");
        let ok = Ok(String::new());
        assert_eq!(asked(&plain, "/x", UPGRADE), ok);
        assert_eq!(asked(&plain, "http://a/x", UPGRADE), ok);
        assert_eq!(asked(&plain, "/", UPGRADE), Err(404));
        assert_eq!(asked(&plain, "/x?q", UPGRADE), Err(400));
        assert_eq!(asked(&plain, "/%78", UPGRADE), Err(404));
        assert_eq!(asked(&plain, "/xaGVsbG8", UPGRADE), Err(404));

        let hello = Ok("hello".to_owned());
        let path = options("/x", 2048, "");
        assert_eq!(asked(&path, "/x", UPGRADE), ok);
        assert_eq!(asked(&path, "/xaGVsbG8", UPGRADE), hello);
        assert_eq!(asked(&path, "/xaGVsbG8=", UPGRADE), Err(400));
        assert_eq!(asked(&path, "/x!!", UPGRADE), Err(400));
        assert_eq!(asked(&path, "/y", UPGRADE), Err(404));

        let header = options("/x", 2048, "Sec-WebSocket-Protocol");
        let early = format!("{UPGRADE}Sec-WebSocket-Protocol: aGVsbG8\r\n");
        assert_eq!(asked(&header, "/x", UPGRADE), ok);
        assert_eq!(asked(&header, "/x?ed=2048", &early), hello);
        assert_eq!(asked(&header, "/%78", &early), hello);
        assert_eq!(asked(&header, "/xaGVsbG8", &early), Err(404));
        assert_eq!(asked(&header, "/x", &early.replace("aG", "!!")), Err(400));
        assert_eq!(asked(&options("/x", 0, "X-Early"), "/x", &early), ok);
    }

    #[test]
    fn what_is_no_websocket() {
        let plain = options("", 0, "");
        for (from, to, status) in [
            ("Host: a", "Host: ", 400),
            ("Upgrade: WebSocket", "Upgrade: h2c", 400),
            ("keep-alive, Upgrade", "keep-alive", 400),
            ("bXBsZSBub25jZQ==", "", 400),
            ("Version: 13", "Version: 12", 426),
            ("Version: 13", "Version: ", 400),
        ] {
            assert_eq!(asked(&plain, "/", &UPGRADE.replace(from, to)), Err(status), "{to}");
        }
    }
}
