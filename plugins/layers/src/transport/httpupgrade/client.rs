//! The client side.

use crosspoint_kernel::{
    BoxFuture, BuildError, DialError,
    addr::Target,
    error::Side as Fault,
    flow::{BoxStream, Prefixed},
};
use crosspoint_schema::options::{HttpUpgradeTransport, TlsOutOptions};

use crate::transport::{
    Client, Lower, Side,
    head::{self, Headers, ask, emit_field, parse::Response},
};

/// The client side that the options describe; `tls` is what lies below.
///
/// # Errors
/// A path or host that is none.
pub(crate) fn client(
    options: &HttpUpgradeTransport,
    server: &Target,
    tls: Option<&TlsOutOptions>,
) -> Result<Side<dyn Client>, BuildError> {
    // Whom TLS greets, as the reference has it: the server, if nobody else is named.
    let tls_name = tls.map(|tls| match tls.server_name.as_str() {
        "" if tls.disable_sni => String::new(),
        "" => server.host.to_string(),
        name => name.to_owned(),
    });
    let request = request(options, server, tls_name.as_deref())?;
    Ok(Side { alpn: super::ALPN, of: Box::new(UpgradeClient { request }) })
}

struct UpgradeClient {
    request: Vec<u8>,
}

fn request(
    options: &HttpUpgradeTransport,
    server: &Target,
    tls_name: Option<&str>,
) -> Result<Vec<u8>, BuildError> {
    let address = server.to_string();
    let name = tls_name.filter(|name| !name.is_empty()).unwrap_or(&address);
    let host = if options.host.is_empty() { name } else { &options.host };
    head::check_host(host)?;
    let mut headers = Headers::raw(&options.headers);
    headers.set("Connection", "Upgrade");
    headers.set("Upgrade", "websocket");
    let mut bytes = Vec::with_capacity(256);
    bytes.extend(b"GET ");
    bytes.extend(head::path(&options.path)?.escaped().as_bytes());
    bytes.extend(b" HTTP/1.1\r\n");
    emit_field(&mut bytes, "Host", host);
    // An empty one means none, here.
    match headers.first("User-Agent") {
        Some("") => {}
        agent => emit_field(&mut bytes, "User-Agent", agent.unwrap_or("Go-http-client/1.1")),
    }
    // Go's HTTP client writes these by itself, or not at all.
    let own = ["Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer"];
    headers.emit(&mut bytes, |name| own.contains(&name));
    bytes.extend(b"\r\n");
    Ok(bytes)
}

fn check(response: &Response<'_>) -> Result<(), String> {
    let Response { status, fields } = response;
    let agreed =
        *status == 101 && fields.is("connection", "upgrade") && fields.is("upgrade", "websocket");
    if agreed { Ok(()) } else { Err(format!("unexpected HTTP response status: {status}")) }
}

impl Client for UpgradeClient {
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let mut stream = lower.open().await?.stream;
            let rest = ask(&mut stream, &self.request, check).await.map_err(|error| {
                let mut error = error.dial().context("httpupgrade handshake");
                // A limit of time that we set is the proxy's fault, whatever the system calls it.
                error.side = Fault::Proxy;
                error
            })?;
            Ok(if rest.is_empty() { stream } else { Box::new(Prefixed::new(rest, stream)) })
        })
    }
}

#[cfg(test)]
mod tests {
    use crosspoint_schema::decode::{HeaderMap, Listable};

    use super::*;

    fn asked(host: &str, path: &str, fields: &[(&str, &str)], tls: Option<&str>) -> String {
        let mut headers = HeaderMap::default();
        for (name, value) in fields {
            headers.0.insert((*name).to_owned(), Listable(vec![(*value).to_owned()]));
        }
        let options =
            HttpUpgradeTransport { host: host.to_owned(), path: path.to_owned(), headers };
        let request = request(&options, &Target::new("srv", 80), tls).unwrap();
        String::from_utf8(request).unwrap().replace("\r\n", "|")
    }

    /// Seen in requests of the reference.
    #[test]
    fn requests_are_those_of_the_reference() {
        let agent = "User-Agent: Go-http-client/1.1";
        let upgrade = "Connection: Upgrade|Upgrade: websocket";
        assert_eq!(
            asked("", "", &[], None),
            format!("GET / HTTP/1.1|Host: srv:80|{agent}|{upgrade}||")
        );
        let fields = [("x-b", "1"), ("Host", "other"), ("user-agent", "UA")];
        assert_eq!(
            asked("h.ex", "a?b c", &fields, Some("tls")),
            format!("GET /a%3Fb%20c HTTP/1.1|Host: h.ex|{agent}|{upgrade}|user-agent: UA|x-b: 1||")
        );
        let named = asked("", "a", &[("User-Agent", "UA")], Some("tls"));
        assert_eq!(named, format!("GET /a HTTP/1.1|Host: tls|User-Agent: UA|{upgrade}||"));
    }
}
