//! The transport `http`: the stream is the body of a request and its response, of HTTP/2 over TLS, of HTTP/1.1 without it.
//! The server takes both with and without TLS. Facts: `transport/v2rayhttp` of the reference.

pub(super) mod front;
mod plain;
pub(super) mod service;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use bytes::Bytes;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, addr::Target, flow::BoxStream};
use crosspoint_schema::options::HttpTransport;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use self::{
    plain::PlainStream,
    service::{Asked, Refusal, Service, Welcome},
};
use super::{
    AdmitError, Arrived, Carried, Client, Guests, Lower, Server, Side,
    h2::{
        pool::{KeepAlive, Pool},
        stream::Wire,
    },
    head::{self, Headers},
};

/// How long a server may take to answer a ping.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests at a time in one connection, as in the reference (golang.org/x/net/http2).
const STREAMS: u32 = 250;

/// The host where none is configured, as v2fly and the reference have it.
const HOST: &str = "www.example.com";

/// How the reference introduces itself.
const USER_AGENT: HeaderValue = HeaderValue::from_static("Go-http-client/2.0");

/// The client side.
///
/// # Errors
/// The options are wrong.
pub(super) fn client(
    options: &HttpTransport,
    server: &Target,
    tls: bool,
) -> Result<Side<dyn Client>, BuildError> {
    let wrong = |what: &str, why: &dyn std::fmt::Display| {
        BuildError::options(format_args!("transport: {what}: {why}"))
    };
    let method = if options.method.is_empty() {
        Method::PUT
    } else {
        Method::from_bytes(options.method.as_bytes()).map_err(|error| wrong("method", &error))?
    };
    let path = head::path(&options.path)?.escaped();
    let headers = headers(options)?;
    if !tls {
        let mut headers = Headers::canonical(&options.headers);
        let hosts = match headers.remove("Host") {
            Some(host) => vec![host],
            None if options.host.is_empty() => vec![server.host.to_string()],
            None => options.host.to_vec(),
        };
        let requests = hosts.iter().map(|host| {
            head::check_host(host)?;
            let mut request = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
            headers.set("Host", host);
            headers.emit(&mut request, |_| false);
            request.extend(b"\r\n");
            Ok(request.into())
        });
        let requests = requests.collect::<Result<_, BuildError>>()?;
        return Ok(Side { alpn: &[], of: Box::new(Http1 { requests }) });
    }
    let hosts = if options.host.is_empty() { vec![HOST.to_owned()] } else { options.host.to_vec() };
    let requests = hosts.iter().map(|host| {
        let uri = Uri::builder().scheme("https").authority(host.as_str());
        let uri = uri.path_and_query(path.as_str()).build();
        let uri = uri.map_err(|error| wrong(&format!("host {host} or path {path}"), &error))?;
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let of = request.headers_mut();
        *of = for_http2(&headers);
        of.entry(header::USER_AGENT).or_insert(USER_AGENT);
        Ok(request)
    });
    let requests = requests.collect::<Result<_, BuildError>>()?;
    let keep = KeepAlive {
        idle: positive(options.idle_timeout.get()),
        patience: positive(options.ping_timeout.get()).unwrap_or(PING_TIMEOUT),
        unused: true,
    };
    Ok(Side { alpn: &["h2"], of: Box::new(Http2 { requests, pool: Pool::new(keep) }) })
}

/// The server side.
///
/// # Errors
/// The options are wrong.
pub(super) fn server(options: &HttpTransport) -> Result<Side<dyn Server>, BuildError> {
    let mut welcome = HeaderMap::new();
    welcome.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in &for_http2(&headers(options)?) {
        // Of several values the reference keeps the last one.
        welcome.insert(name, value.clone());
    }
    let door = Door {
        hosts: options.host.to_vec(),
        path: head::server_path(&options.path),
        method: options.method.clone(),
        welcome,
        idle: positive(options.idle_timeout.get()),
    };
    Ok(Side { alpn: &["h2", "http/1.1"], of: Box::new(door) })
}

/// A time that is set.
pub(super) fn positive(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// The configured headers.
fn headers(options: &HttpTransport) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    for (name, value) in options.headers.iter() {
        let wrong =
            || BuildError::options(format_args!("transport: header {name:?} with {value:?}"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// Without those that HTTP/2 has no place for, as the reference leaves them out.
fn for_http2(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [
        "host",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
    headers
}

/// One of several, by chance.
fn pick<T>(of: &[T]) -> Option<&T> {
    if let [one] = of {
        return Some(one);
    }
    let chance = RandomState::new().hash_one(0);
    let at = chance.checked_rem(of.len() as u64)?;
    of.get(usize::try_from(at).ok()?)
}

fn no_host() -> DialError {
    DialError::unsupported("transport: no host")
}

/// The client without TLS: a connection for each stream.
struct Http1 {
    /// Heads of the request, one for each host.
    requests: Vec<Bytes>,
}

impl Client for Http1 {
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async {
            let request = pick(&self.requests).ok_or_else(no_host)?.clone();
            let carried = lower.open().await?;
            Ok(Box::new(PlainStream::new(carried.stream, request)) as BoxStream)
        })
    }
}

/// The client over TLS: streams share connections.
struct Http2 {
    /// One for each host.
    requests: Vec<Request<()>>,
    pool: Pool,
}

impl Client for Http2 {
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async {
            let request = pick(&self.requests).ok_or_else(no_host)?;
            let opened = self.pool.request(request, lower).await?;
            Ok(Box::new(opened.stream(Wire::Plain)) as BoxStream)
        })
    }
}

/// The server.
struct Door {
    /// Which hosts may be asked for; any if empty.
    hosts: Vec<String>,
    /// What the path starts with.
    path: String,
    /// The method; any if empty.
    method: String,
    /// Headers of the response.
    welcome: HeaderMap,
    idle: Option<Duration>,
}

impl Service for Door {
    fn judge(&self, asked: &Asked<'_>) -> Result<Welcome, Refusal> {
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.as_bytes() == asked.host) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "host", asked.host));
        }
        if !asked.path.starts_with(self.path.as_bytes()) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "path", asked.path));
        }
        if !self.method.is_empty() && self.method != asked.method {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "method", asked.method.as_bytes()));
        }
        Ok(Welcome { headers: self.welcome.clone(), wire: Wire::Plain })
    }

    fn most_streams(&self) -> u32 {
        STREAMS
    }

    fn idle(&self) -> Option<Duration> {
        self.idle
    }

    fn takes_http1(&self) -> bool {
        true
    }
}

impl Server for Door {
    fn admit<'a>(
        &'a self,
        carried: Carried,
        guests: &'a Guests,
    ) -> BoxFuture<'a, Result<Option<Arrived>, AdmitError>> {
        Box::pin(front::admit(self, carried, guests))
    }
}
