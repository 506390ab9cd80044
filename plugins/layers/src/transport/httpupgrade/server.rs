//! The server side.

use crosspoint_kernel::{BoxFuture, flow::Prefixed};
use crosspoint_schema::options::HttpUpgradeTransport;

use crate::transport::{
    AdmitError, Arrived, Carried, Guests, Server, Side,
    head::{self, Decision, Headers, date, parse::Request, serve, source},
};

/// The server side that the options describe.
pub(crate) fn server(options: &HttpUpgradeTransport) -> Side<dyn Server> {
    Side { alpn: super::ALPN, of: Box::new(UpgradeServer::new(options)) }
}

/// Accepts one stream for each connection.
pub(crate) struct UpgradeServer {
    host: String,
    path: String,
    /// Fields of the answer, but for the date.
    fields: Vec<u8>,
}

impl UpgradeServer {
    pub(super) fn new(options: &HttpUpgradeTransport) -> Self {
        let mut fields = b"Connection: upgrade\r\nUpgrade: websocket\r\n".to_vec();
        Headers::canonical(&options.headers).emit(&mut fields, head::is_own_field);
        Self { host: options.host.clone(), path: head::server_path(&options.path), fields }
    }

    /// The order of the checks is that of the reference.
    pub(super) fn decide(&self, request: &Request<'_>) -> Decision<()> {
        let fields = &request.fields;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let refuse = |status, why: &str| Decision::Refuse { status, why: why.to_owned() };
        if !self.host.is_empty() && *request.host != *self.host.as_bytes() {
            return refuse(400, &format!("bad host: {}", text(&request.host)));
        }
        let path = request.uri.path.plain();
        if path != self.path.as_bytes() {
            return refuse(404, &format!("bad path: {}", text(path)));
        }
        if request.method != "GET" {
            return refuse(404, &format!("bad method: {}", request.method));
        }
        if !fields.is("connection", "upgrade") {
            return refuse(404, "not an upgrade request");
        }
        if !fields.is("upgrade", "websocket") {
            return refuse(404, "not a websocket request");
        }
        if !fields.get("sec-websocket-key").is_empty() {
            return refuse(404, "real websocket request received");
        }
        let mut answer =
            format!("HTTP/1.{} 101 Switching Protocols\r\n", request.minor).into_bytes();
        answer.extend(&self.fields);
        answer.extend(format!("Date: {}\r\n\r\n", date()).as_bytes());
        Decision::Accept { answer, with: () }
    }
}

impl Server for UpgradeServer {
    fn admit<'a>(
        &'a self,
        carried: Carried,
        guests: &'a Guests,
    ) -> BoxFuture<'a, Result<Option<Arrived>, AdmitError>> {
        Box::pin(async move {
            let Carried { mut stream, alpn } = carried;
            let mut from = None;
            let ((), rest) = serve(&mut stream, |request| {
                from = source(&request.fields, guests.peer());
                self.decide(request)
            })
            .await?;
            let stream =
                if rest.is_empty() { stream } else { Box::new(Prefixed::new(rest, stream)) };
            Ok(Some(Arrived { stream, alpn, source: from }))
        })
    }
}
