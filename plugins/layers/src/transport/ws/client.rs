//! The client side.

use std::sync::Arc;

use aws_lc_rs::rand;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use crosspoint_kernel::{
    BoxFuture, BuildError, DialError,
    addr::Target,
    error::{DialClass, Side as Fault},
    flow::{BoxStream, Prefixed},
};
use crosspoint_schema::options::WsTransport;

use super::{
    accept_key,
    early::EarlyStream,
    stream::{Role, WsStream},
};
use crate::transport::{
    Client, Lower, Side,
    head::{self, AskError, Headers, ask, emit_field, parse::Response, uri::Path},
};

/// What TLS offers where the user configured nothing.
const ALPN: &[&str] = &["http/1.1"];

/// The client side that the options describe.
///
/// # Errors
/// A path, host, or name of a header that is none.
pub(crate) fn client(
    options: &WsTransport,
    server: &Target,
) -> Result<Side<dyn Client>, BuildError> {
    let client = WsClient(Arc::new(Recipe::new(options, server)?));
    Ok(Side { alpn: ALPN, of: Box::new(client) })
}

/// What requests are made of.
pub(crate) struct Recipe {
    path: Path,
    host: String,
    headers: Headers,
    early: Option<Early>,
}

/// Where a request holds the first data.
struct Early {
    max: usize,
    /// The name of the field; in the path if there is none.
    header: Option<String>,
}

/// A request and what its answer must hold.
struct Request {
    bytes: Vec<u8>,
    accept: String,
    protocol: Option<String>,
}

impl Recipe {
    pub(crate) fn new(options: &WsTransport, server: &Target) -> Result<Self, BuildError> {
        let mut headers = Headers::canonical(&options.headers);
        let host = headers.remove("Host").unwrap_or_else(|| server.to_string());
        head::check_host(&host)?;
        let agent = headers.remove("User-Agent");
        headers.set("User-Agent", agent.as_deref().unwrap_or("Go-http-client/1.1"));
        let header = match options.early_data_header_name.as_str() {
            "" => None,
            name => Some(head::name(name).ok_or_else(|| {
                BuildError::options(format_args!("no name of a header: {name:?}"))
            })?),
        };
        let max = usize::try_from(options.max_early_data).unwrap_or(usize::MAX);
        let early = (max > 0).then_some(Early { max, header });
        Ok(Self { path: head::path(&options.path)?, host, headers, early })
    }

    /// Most bytes of data that a request takes.
    pub(crate) fn max_early(&self) -> usize {
        self.early.as_ref().map_or(0, |early| early.max)
    }

    fn request(&self, data: &[u8]) -> Result<Request, AskError> {
        let mut headers = self.headers.clone();
        let mut path = self.path.escaped();
        if let Some(early) = &self.early
            && !data.is_empty()
        {
            let data = URL_SAFE_NO_PAD.encode(data);
            match &early.header {
                Some(name) => headers.set(name, &data),
                None => path = self.path.with(&data).escaped(),
            }
        }
        let protocol = headers.remove("Sec-Websocket-Protocol");
        let mut nonce = [0; 16];
        let random = rand::fill(&mut nonce);
        random.map_err(|_| AskError::Refused("no randomness".to_owned()))?;
        let nonce = STANDARD.encode(nonce);
        let mut bytes = Vec::with_capacity(256 + path.len());
        bytes.extend(b"GET ");
        bytes.extend(path.as_bytes());
        bytes.extend(b" HTTP/1.1\r\n");
        emit_field(&mut bytes, "Host", &self.host);
        bytes.extend(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        emit_field(&mut bytes, "Sec-WebSocket-Key", &nonce);
        if let Some(protocol) = &protocol {
            emit_field(&mut bytes, "Sec-WebSocket-Protocol", protocol);
        }
        headers.emit(&mut bytes, |_| false);
        bytes.extend(b"\r\n");
        Ok(Request { bytes, accept: accept_key(nonce.as_bytes()), protocol })
    }

    /// Makes a WebSocket connection of a stream. `data` goes with the request.
    pub(crate) async fn shake_hands(
        &self,
        mut stream: BoxStream,
        data: &[u8],
    ) -> Result<WsStream, AskError> {
        let request = self.request(data)?;
        let rest = ask(&mut stream, &request.bytes, |response| check(&request, response)).await?;
        let stream = if rest.is_empty() { stream } else { Box::new(Prefixed::new(rest, stream)) };
        Ok(WsStream::new(stream, Role::Client))
    }
}

/// Whether the server has agreed (RFC 6455 §4.1).
fn check(request: &Request, response: &Response<'_>) -> Result<(), String> {
    let Response { status, fields } = response;
    if *status != 101 {
        return Err(format!("unexpected HTTP response status: {status}"));
    }
    if !fields.is("upgrade", "websocket") || !fields.is("connection", "upgrade") {
        return Err("the server does not speak WebSocket".to_owned());
    }
    if fields.get("sec-websocket-accept") != request.accept.as_bytes() {
        return Err("the server's Sec-WebSocket-Accept is wrong".to_owned());
    }
    let mut protocols = fields.all("sec-websocket-protocol");
    let wanted = request.protocol.as_ref().map(String::as_bytes);
    if protocols.any(|protocol| Some(protocol) != wanted) {
        return Err("the server speaks another WebSocket protocol".to_owned());
    }
    if fields.all("sec-websocket-extensions").any(|extension| !extension.is_empty()) {
        return Err("the server uses a WebSocket extension".to_owned());
    }
    Ok(())
}

struct WsClient(Arc<Recipe>);

impl Client for WsClient {
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let stream = lower.open().await?.stream;
            if self.0.max_early() > 0 {
                return Ok(Box::new(EarlyStream::new(stream, self.0.clone())) as BoxStream);
            }
            let stream = self.0.shake_hands(stream, &[]).await.map_err(|error| {
                let mut error = error.dial().context("websocket handshake");
                // A limit of time that we set is the proxy's fault, whatever the system calls it.
                error.side = Fault::Proxy;
                error.retry |= error.class == DialClass::TimedOut;
                error
            })?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}
