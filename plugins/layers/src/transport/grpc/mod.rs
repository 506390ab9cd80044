//! The transport `grpc`: the stream is a call of the gRPC method `Tun` of a service with a configured name, the mode
//! `gun` of V2Ray. Facts: `transport/v2raygrpclite` and `transport/v2raygrpc` of the reference.

pub mod gun;
pub(super) mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crosspoint_kernel::{BoxFuture, BuildError, DialError, addr::Target, flow::BoxStream};
use crosspoint_schema::options::GrpcTransport;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use super::{
    AdmitError, Arrived, Carried, Client, Guests, Lower, Server, Side,
    h2::{
        pool::{KeepAlive, Pool},
        stream::Wire,
    },
    http::{
        PING_TIMEOUT, front, positive,
        service::{Asked, Refusal, Service, Welcome},
    },
};

/// What all messages are announced as.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// How the reference introduces itself.
const USER_AGENT: HeaderValue = HeaderValue::from_static("grpc-go/1.48.0");

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Calls at a time in one connection. Clients of gRPC wait at the limit where others open another connection, so that it must
/// be higher than what one of them needs.
const CALLS: u32 = 4096;

/// The client side. `name` is the server's in TLS, if there is one.
///
/// # Errors
/// The options are wrong.
pub(super) fn client(
    options: &GrpcTransport,
    server: &Target,
    name: Option<&str>,
) -> Result<Side<dyn Client>, BuildError> {
    // TLS or not, the scheme is the same in the reference.
    let authority = match name.filter(|name| !name.is_empty()) {
        Some(name) => Target::new(name, server.port),
        None => server.clone(),
    };
    let path = path(&options.service_name);
    let uri = Uri::builder().scheme("https").authority(authority.to_string());
    let uri = uri.path_and_query(path).build();
    let uri = uri.map_err(|error| {
        BuildError::options(format_args!("transport: server {authority}: {error}"))
    })?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().extend([
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (header::USER_AGENT, USER_AGENT),
        (header::TE, TRAILERS),
    ]);
    let keep = KeepAlive {
        idle: positive(options.idle_timeout.get()),
        patience: positive(options.ping_timeout.get()).unwrap_or(PING_TIMEOUT),
        unused: options.permit_without_stream,
    };
    Ok(Side { alpn: &["h2"], of: Box::new(Caller { request, pool: Pool::new(keep) }) })
}

/// The server side.
///
/// # Errors
/// The options are wrong.
pub(super) fn server(options: &GrpcTransport) -> Result<Side<dyn Server>, BuildError> {
    let callee = Callee {
        path: format!("/{}/Tun", options.service_name),
        idle: positive(options.idle_timeout.get()),
    };
    Ok(Side { alpn: &["h2"], of: Box::new(callee) })
}

/// The path of the calls. Whatever the name of the service holds, it is one segment of it.
fn path(service: &str) -> String {
    let mut path = String::from("/");
    for byte in service.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+:=@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path.push_str("/Tun");
    path
}

/// The client: calls share connections.
struct Caller {
    request: Request<()>,
    pool: Pool,
}

impl Client for Caller {
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async {
            let opened = self.pool.request(&self.request, lower).await?;
            Ok(Box::new(opened.stream(Wire::Gun(gun::Reader::default()))) as BoxStream)
        })
    }
}

/// The server.
struct Callee {
    path: String,
    idle: Option<Duration>,
}

impl Service for Callee {
    fn judge(&self, asked: &Asked<'_>) -> Result<Welcome, Refusal> {
        let no = |what, asked| Err(Refusal::new(StatusCode::NOT_FOUND, what, asked));
        if asked.path != self.path.as_bytes() {
            return no("path", asked.path);
        }
        if asked.method != Method::POST.as_str() {
            return no("method", asked.method.as_bytes());
        }
        if !asked.content_type.starts_with(CONTENT_TYPE.as_bytes()) {
            return no("content type", asked.content_type);
        }
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, CONTENT_TYPE), (header::TE, TRAILERS)]);
        Ok(Welcome { headers, wire: Wire::Gun(gun::Reader::default()) })
    }

    fn most_streams(&self) -> u32 {
        CALLS
    }

    fn idle(&self) -> Option<Duration> {
        self.idle
    }

    fn takes_http1(&self) -> bool {
        false
    }
}

impl Server for Callee {
    fn admit<'a>(
        &'a self,
        carried: Carried,
        guests: &'a Guests,
    ) -> BoxFuture<'a, Result<Option<Arrived>, AdmitError>> {
        Box::pin(front::admit(self, carried, guests))
    }
}
