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
    path: String,
    host: String,
    parts: Parts,
    early: Option<Early>,
}

/// What follows the fields that every request has.
struct Parts {
    protocol: Option<String>,
    fields: Vec<u8>,
}

impl From<Headers> for Parts {
    fn from(mut headers: Headers) -> Self {
        let protocol = headers.remove("Sec-Websocket-Protocol");
        let mut fields = Vec::new();
        headers.emit(&mut fields, |_| false);
        Self { protocol, fields }
    }
}

/// Data in a request.
struct Early {
    max: usize,
    place: Place,
}

enum Place {
    /// Behind this path.
    Path(Path),
    /// In the field of that name, among these.
    Header(String, Headers),
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
        let path = head::path(&options.path)?;
        let escaped = path.escaped();
        let place = match options.early_data_header_name.as_str() {
            "" => Place::Path(path),
            name => match head::name(name) {
                Some(name) => Place::Header(name, headers.clone()),
                None => {
                    let text = format_args!("no name of a header: {name:?}");
                    return Err(BuildError::options(text));
                }
            },
        };
        let max = usize::try_from(options.max_early_data).unwrap_or(usize::MAX);
        let early = (max > 0).then_some(Early { max, place });
        Ok(Self { path: escaped, host, parts: headers.into(), early })
    }

    /// Most bytes of data that a request takes.
    pub(crate) fn max_early(&self) -> usize {
        self.early.as_ref().map_or(0, |early| early.max)
    }

    fn request(&self, data: &[u8]) -> Result<Request, AskError> {
        match &self.early {
            Some(early) if !data.is_empty() => {
                let data = URL_SAFE_NO_PAD.encode(data);
                match &early.place {
                    Place::Path(path) => self.emit(&path.with(&data).escaped(), &self.parts),
                    Place::Header(name, headers) => {
                        let mut headers = headers.clone();
                        headers.set(name, &data);
                        self.emit(&self.path, &headers.into())
                    }
                }
            }
            _ => self.emit(&self.path, &self.parts),
        }
    }

    fn emit(&self, path: &str, parts: &Parts) -> Result<Request, AskError> {
        let mut nonce = [0; 16];
        let random = rand::fill(&mut nonce);
        random.map_err(|_| AskError::Refused("no randomness".to_owned()))?;
        let nonce = STANDARD.encode(nonce);
        let mut bytes = Vec::with_capacity(256 + path.len() + parts.fields.len());
        bytes.extend(b"GET ");
        bytes.extend(path.as_bytes());
        bytes.extend(b" HTTP/1.1\r\n");
        emit_field(&mut bytes, "Host", &self.host);
        bytes.extend(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        emit_field(&mut bytes, "Sec-WebSocket-Key", &nonce);
        if let Some(protocol) = &parts.protocol {
            emit_field(&mut bytes, "Sec-WebSocket-Protocol", protocol);
        }
        bytes.extend(&parts.fields);
        bytes.extend(b"\r\n");
        let accept = accept_key(nonce.as_bytes());
        Ok(Request { bytes, accept, protocol: parts.protocol.clone() })
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

#[cfg(test)]
mod tests {
    use crosspoint_schema::decode::{HeaderMap, Listable};

    use super::*;

    /// The request with `data`, lines joined by `|`, the key left out.
    fn asked(path: &str, header: &str, fields: &[(&str, &[&str])], data: &[u8]) -> String {
        let mut headers = HeaderMap::default();
        for (name, values) in fields {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            headers.0.insert((*name).to_owned(), Listable(values));
        }
        let options = WsTransport {
            path: path.to_owned(),
            headers,
            max_early_data: 2048,
            early_data_header_name: header.to_owned(),
        };
        let recipe = Recipe::new(&options, &Target::new("srv", 80)).unwrap();
        let request = String::from_utf8(recipe.request(data).unwrap().bytes).unwrap();
        let lines = request.split("\r\n").filter(|line| !line.contains("WebSocket-Key: "));
        lines.collect::<Vec<_>>().join("|")
    }

    /// Seen in requests of the reference.
    #[test]
    fn requests_are_those_of_the_reference() {
        let upgrade = "Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13";
        let agent = "User-Agent: Go-http-client/1.1";
        assert_eq!(
            asked("", "", &[], b""),
            format!("GET / HTTP/1.1|Host: srv:80|{upgrade}|{agent}||")
        );
        let fields: &[(&str, &[&str])] = &[
            ("host", &["h.ex"]),
            ("x-b", &["1", "2"]),
            ("X-A", &[" v\nw "]),
            ("user-agent", &["UA"]),
        ];
        assert_eq!(
            asked("/x", "", fields, b""),
            format!("GET /x HTTP/1.1|Host: h.ex|{upgrade}|User-Agent: UA|X-A: v w|X-B: 1|X-B: 2||")
        );
        let fields: &[(&str, &[&str])] =
            &[("Sec-WebSocket-Protocol", &["chat"]), ("Connection", &["foo"])];
        assert_eq!(
            asked("", "", fields, b""),
            format!(
                "GET / HTTP/1.1|Host: srv:80|{upgrade}|Sec-WebSocket-Protocol: chat|Connection: foo|{agent}||"
            )
        );
        assert_eq!(
            asked("/x", "Sec-WebSocket-Protocol", &[], b"hello"),
            format!(
                "GET /x HTTP/1.1|Host: srv:80|{upgrade}|Sec-WebSocket-Protocol: aGVsbG8|{agent}||"
            )
        );
        assert_eq!(
            asked("/x", "x-early", &[], b"hello"),
            format!("GET /x HTTP/1.1|Host: srv:80|{upgrade}|{agent}|X-Early: aGVsbG8||")
        );
        assert_eq!(
            asked("/x/?a", "", &[], b"hello"),
            format!("GET /x/%3FaaGVsbG8 HTTP/1.1|Host: srv:80|{upgrade}|{agent}||")
        );
    }

    #[test]
    fn options_that_cannot_be() {
        let server = Target::new("srv", 80);
        for (path, host, header) in [("/%zz", "", ""), ("", "a\nb", ""), ("", "", "a b")] {
            let mut options = WsTransport { path: path.to_owned(), ..WsTransport::default() };
            options.early_data_header_name = header.to_owned();
            options.headers.0.insert("Host".to_owned(), Listable(vec![host.to_owned()]));
            assert!(Recipe::new(&options, &server).is_err(), "{path}{host}{header}");
        }
    }
}
