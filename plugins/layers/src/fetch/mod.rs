//! The HTTP client behind [`kernel::fetch`](crosspoint_kernel::fetch): one request on one connection, HTTP/1.1 or
//! HTTP/2 as the server likes, certificates judged by the store of the process.

mod url;

use std::{future::Future, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use crosspoint_kernel::{
    BoxFuture,
    component::{Dial, Outbound},
    error::{DialClass, DialError, Side},
    fetch::{Fetch, FetchError, Method, Request, Response},
    flow::BoxStream,
    resolve::NO_TRAIL,
    slot::Slot,
    snapshot::Plane,
};
use crosspoint_schema::options::TlsOutOptions;
use crosspoint_tls::{Client, ClientDefaults, Store};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

pub use self::url::Url;

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("crosspoint/", env!("CARGO_PKG_VERSION"));

/// Finds the outbound for requests that name none.
type FindDefault = Box<dyn Fn() -> Option<Arc<Slot<dyn Outbound>>> + Send + Sync>;

/// The HTTP client. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    default: FindDefault,
    store: Arc<Store>,
}

impl HttpClient {
    /// A client whose requests go, if they name no outbound, through the one that `default` finds at the time.
    pub fn new(
        default: impl Fn() -> Option<Arc<Slot<dyn Outbound>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner { default: Box::new(default), store: Store::process().clone() }))
    }

    /// A client whose requests go, if they name no outbound, through the default one of the generation in force.
    pub fn on(plane: Arc<Plane>) -> Self {
        Self::new(move || plane.snapshot.load().names.default_outbound.clone())
    }

    /// The same client, trusting another store.
    #[must_use]
    pub fn trusting(self, store: Arc<Store>) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { store, ..inner })),
            Err(shared) => {
                let default = move || (shared.default)();
                Self(Arc::new(Inner { default: Box::new(default), store }))
            }
        }
    }
}

impl Fetch for HttpClient {
    fn fetch(&self, request: Request) -> BoxFuture<'static, Result<Response, FetchError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let limit = request.timeout;
            match tokio::time::timeout(limit, inner.follow(request)).await {
                Ok(result) => result,
                Err(_) => Err(FetchError::TimedOut(limit)),
            }
        })
    }
}

/// One request on its way, which redirects change.
struct Errand {
    url: Url,
    method: http::Method,
    headers: HeaderMap,
    body: Bytes,
    limit: usize,
}

impl Inner {
    async fn follow(&self, request: Request) -> Result<Response, FetchError> {
        let via = match &request.via {
            Some(slot) => slot.clone(),
            None => (self.default)().ok_or_else(|| {
                let message = "no outbound to fetch through";
                DialError::new(DialClass::Down, Side::Local, message)
            })?,
        };
        let mut errand = Errand {
            url: Url::parse(&request.url)?,
            method: match request.method {
                Method::Get => http::Method::GET,
                Method::Head => http::Method::HEAD,
                Method::Post => http::Method::POST,
            },
            headers: headers(&request.headers)?,
            body: request.body,
            limit: request.body_limit,
        };
        for _ in 0..=REDIRECTS {
            let response = self.once(&via, &errand).await?;
            let Some(next) = redirect(&response) else { return Ok(response) };
            let next = errand.url.join(next)?;
            if !next.same_host(&errand.url) {
                // What is for the first server alone.
                for name in [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION] {
                    errand.headers.remove(name);
                }
            }
            let keeps = matches!(response.status, 307 | 308);
            if !keeps && errand.method != http::Method::HEAD {
                errand.method = http::Method::GET;
                errand.body = Bytes::new();
                errand.headers.remove(header::CONTENT_TYPE);
            }
            errand.url = next;
        }
        Err(FetchError::Failed(format!("more than {REDIRECTS} redirects").into()))
    }

    async fn once(
        &self,
        via: &Slot<dyn Outbound>,
        errand: &Errand,
    ) -> Result<Response, FetchError> {
        let url = &errand.url;
        let stream = via.connect(Dial::internal(&url.target)).await?;
        if !url.secure {
            return self.http1(stream, errand).await;
        }
        let defaults = ClientDefaults {
            alpn: &["h2", "http/1.1"],
            store: Some(self.store.clone()),
            ..ClientDefaults::default()
        };
        let client = Client::new(&TlsOutOptions::default(), &url.host, &defaults)
            .map_err(|error| FetchError::Failed(error.to_string().into()))?;
        let stream = client.connect(stream, &NO_TRAIL).await.map_err(|mut error| {
            error.side = Side::Target;
            error.context(&url.target)
        })?;
        if stream.alpn() == Some(b"h2") {
            self.http2(Box::new(stream), errand).await
        } else {
            self.http1(Box::new(stream), errand).await
        }
    }

    async fn http1(&self, stream: BoxStream, errand: &Errand) -> Result<Response, FetchError> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = errand.request(Version::HTTP_11)?;
        driven(connection, async {
            let response = sender.send_request(request).await.map_err(failed)?;
            read(response, errand.limit).await
        })
        .await
    }

    async fn http2(&self, stream: BoxStream, errand: &Errand) -> Result<Response, FetchError> {
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = errand.request(Version::HTTP_2)?;
        driven(connection, async {
            let response = sender.send_request(request).await.map_err(failed)?;
            read(response, errand.limit).await
        })
        .await
    }
}

/// Does `work` while the connection is kept going beside it.
async fn driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    let (mut connection, mut work) = (std::pin::pin!(connection), std::pin::pin!(work));
    tokio::select! {
        biased;
        result = &mut work => result,
        // The connection is over; what it has brought is still to be read.
        _ = &mut connection => work.await,
    }
}

impl Errand {
    fn request(&self, version: Version) -> Result<http::Request<Full<Bytes>>, FetchError> {
        let url = &self.url;
        // HTTP/1.1 asks an origin for a path, HTTP/2 needs the whole (RFC 9113 §8.3.1).
        let uri = if version == Version::HTTP_2 {
            format!("{}://{}{}", url.scheme(), url.authority, url.path)
        } else {
            url.path.clone()
        };
        let mut request =
            http::Request::builder().method(self.method.clone()).uri(uri).version(version);
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
            if version != Version::HTTP_2 {
                headers.insert(header::HOST, value(&url.authority)?);
            }
            headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
            headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
            if let Some(login) = &url.login
                && !headers.contains_key(header::AUTHORIZATION)
            {
                let basic = format!("Basic {}", STANDARD.encode(login));
                headers.insert(header::AUTHORIZATION, value(&basic)?);
            }
        }
        request.body(Full::new(self.body.clone())).map_err(failed)
    }
}

fn headers(list: &[(Box<str>, Box<str>)]) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::new();
    for (name, text) in list {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(failed)?;
        if name != header::HOST {
            headers.append(name, value(text)?);
        }
    }
    Ok(headers)
}

fn value(text: &str) -> Result<HeaderValue, FetchError> {
    HeaderValue::from_str(text).map_err(failed)
}

/// Where a response sends us.
fn redirect(response: &Response) -> Option<&str> {
    let moved = matches!(response.status, 301 | 302 | 303 | 307 | 308);
    if moved { response.header("location").filter(|to| !to.is_empty()) } else { None }
}

async fn read(response: http::Response<Incoming>, limit: usize) -> Result<Response, FetchError> {
    let (head, mut body) = response.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().into(), String::from_utf8_lossy(value.as_bytes()).into())
        })
        .collect();
    let mut content = BytesMut::new();
    // Nobody reads the body of a redirect.
    let wanted = !head.status.is_redirection() || head.status == StatusCode::NOT_MODIFIED;
    while let Some(frame) = body.frame().await {
        if !wanted {
            break;
        }
        let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
        if content.len() + data.len() > limit {
            return Err(FetchError::TooLong(limit));
        }
        content.extend_from_slice(&data);
    }
    Ok(Response { status: head.status.as_u16(), headers, body: content.freeze() })
}

/// Errors of hyper with their causes, which hyper itself does not print.
fn failed(error: impl std::error::Error) -> FetchError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    FetchError::Failed(text.into())
}
