//! Service `ssm-api`: users of inbounds, and what they move, over HTTP (REST v1 of the Shadowsocks Server Management
//! API). The README of this crate says what differs from the reference.
//!
//! | module | what it is |
//! |---|---|
//! | [`request`] | paths and bodies, without I/O |
//! | `api` | what each request answers |
//! | `inbounds` | the users of each inbound, changed by message |
//! | [`cache`] | the file that users and sums survive a restart in |

mod api;
pub mod cache;
mod inbounds;
mod options;
pub mod request;

use std::{collections::HashMap, convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, BuildError, Kind, Plugin,
    component::{BuildCx, Claims, Component, Dep, Deps, Fault, Spec},
    flow::BoxStream,
    net::listen,
    serve::{self, Accepted, HANDSHAKE_TIMEOUT},
    session::Network,
};
use crosspoint_layers::spec::{at_start, check, done};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _},
    options::TlsInOptions,
};
use crosspoint_tls::{Server as Tls, ServerDefaults};
use hyper::{server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error};

use self::{
    api::{Api, Endpoint},
    cache::Cache,
    inbounds::Managed,
};
pub use options::SsmApiOptions;

inventory::submit! {
    Plugin { kind: Kind::Service, type_name: "ssm-api", schema: SsmApiOptions::describe, canonical: |raw| raw.canonical::<SsmApiOptions>(), parse }
}

/// How often the cache file is written while something changes: what a kill can cost.
const SAVE: Duration = Duration::from_millis(900);

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: SsmApiOptions = raw.parse()?;
    if let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) {
        tls.note_deprecated(raw.notices());
    }
    let servers = options.servers.as_ref().map_or(&[][..], |servers| &servers.0);
    if servers.is_empty() {
        return Err(raw.invalid("missing servers"));
    }
    for (at, (path, _)) in servers.iter().enumerate() {
        if !path.starts_with('/') {
            let message = format!("path of endpoint {path:?} must begin with /");
            return Err(raw.invalid_at("servers", message));
        }
        let twice = |(other, _): &(String, String)| request::prefix(other) == request::prefix(path);
        if servers[..at].iter().any(twice) {
            return Err(raw.invalid_at("servers", format!("endpoint {path:?} stands there twice")));
        }
    }
    let spec = SsmApi(options);
    check(&raw, "tls", spec.tls().map(drop))?;
    at_start(&raw, "proxy_protocol", listen::validate(&spec.0.listen))?;
    done(spec)
}

#[derive(Debug)]
struct SsmApi(SsmApiOptions);

impl SsmApi {
    fn tls(&self) -> Result<Option<Tls>, BuildError> {
        let Some(tls) = self.0.tls.as_ref().filter(|tls| tls.enabled) else { return Ok(None) };
        let mut tls: TlsInOptions = tls.clone();
        // HTTP/2 is always offered, as in the reference.
        if !tls.alpn.0.is_empty() && !tls.alpn.0.iter().any(|alpn| alpn == "h2") {
            tls.alpn.0.insert(0, "h2".to_owned());
        }
        let defaults = ServerDefaults { alpn: &["h2", "http/1.1"], ..ServerDefaults::default() };
        Ok(Some(Tls::new(&tls, &defaults)?))
    }

    fn servers(&self) -> &[(String, String)] {
        self.0.servers.as_ref().map_or(&[], |servers| &servers.0)
    }

    fn cache_path(&self) -> Option<PathBuf> {
        Some(&self.0.cache_path).filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

impl Spec for SsmApi {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.0.listen, out);
        out.0.extend(self.servers().iter().map(|(_, tag)| Dep::Users(tag.as_str().into())));
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.0.listen, &[Network::Tcp], out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let mut inbounds: HashMap<&str, Arc<Managed>> = HashMap::new();
            let mut endpoints = Vec::new();
            for (path, tag) in self.servers() {
                // Two endpoints of one inbound are two doors to the same users.
                let inbound = inbounds
                    .entry(tag)
                    .or_insert_with(|| Arc::new(Managed::new(&cx.plane, tag)))
                    .clone();
                endpoints.push(Endpoint { path: path.clone(), inbound });
            }
            // Before anything that may fail: inbounds need their users even if nobody can manage them.
            if let Some(path) = self.cache_path() {
                restore(&cx, path, &endpoints).await;
            }
            let tls = self.tls()?;
            let listener = listen::tcp_listener(&self.0.listen, &cx)?;
            let server = Arc::new(Server { cx: cx.clone(), tls, api: Api(endpoints) });
            let cache_path = self.cache_path();
            let run = async move {
                for endpoint in &server.api.0 {
                    endpoint.inbound.remind().await;
                }
                if let Some(tls) = &server.tls {
                    tls.watch(cx.cancel.clone(), cx.me.clone());
                }
                let accept = server.clone();
                let accept = serve::tcp(listener, cx.clone(), move |accepted| {
                    let server = accept.clone();
                    async move { server.serve(accepted).await }
                });
                match cache_path {
                    None => accept.await,
                    Some(path) => server.accept_and_save(accept, path).await,
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

/// Fills rolls that nobody has filled in this process.
async fn restore(cx: &BuildCx, path: PathBuf, endpoints: &[Endpoint]) {
    match tokio::task::spawn_blocking(move || cache::read(&path)).await {
        Ok(Ok(cache)) => {
            for endpoint in endpoints {
                if let Some((users, sums)) = cache.get(&endpoint.path) {
                    endpoint.inbound.restore(&users, sums);
                }
            }
        }
        Ok(Err(error)) => error!(component = %cx.me, "load cache: {error}"),
        Err(error) => error!(component = %cx.me, "load cache: {error}"),
    }
}

/// A running service.
struct Server {
    cx: BuildCx,
    tls: Option<Tls>,
    api: Api,
}

impl Server {
    async fn serve(self: Arc<Self>, accepted: Accepted) {
        let Accepted { id, stream, peer, permit } = accepted;
        let _permit = permit;
        let stream: BoxStream = Box::new(stream);
        let (stream, h2): (BoxStream, bool) = match &self.tls {
            None => (stream, false),
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => {
                    let h2 = stream.alpn() == Some(b"h2");
                    (Box::new(stream), h2)
                }
                Err(error) => {
                    debug!(conn = id, component = %self.cx.me, "connection from {peer}: {error}");
                    return;
                }
            },
        };
        let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
            debug!(conn = id, component = %self.cx.me, "{} {} {peer}", request.method(), request.uri());
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.api.answer(request).await) }
        });
        let stream = TokioIo::new(stream);
        // Requests under way are answered when the service is replaced.
        let ended = if h2 {
            let serve = conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(64)
                .serve_connection(stream, answer);
            tokio::pin!(serve);
            tokio::select! {
                ended = &mut serve => ended,
                () = self.cx.cancel.cancelled() => {
                    serve.as_mut().graceful_shutdown();
                    serve.await
                }
            }
        } else {
            let serve = conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE_TIMEOUT)
                .serve_connection(stream, answer);
            tokio::pin!(serve);
            tokio::select! {
                ended = &mut serve => ended,
                () = self.cx.cancel.cancelled() => {
                    serve.as_mut().graceful_shutdown();
                    serve.await
                }
            }
        };
        if let Err(error) = ended {
            debug!(conn = id, component = %self.cx.me, "connection from {peer}: {error}");
        }
    }

    /// Accepts, and writes the cache file whenever something has changed, and at the end.
    async fn accept_and_save(
        &self,
        accept: impl Future<Output = Result<(), Fault>>,
        path: PathBuf,
    ) -> Result<(), Fault> {
        let mut written = Vec::new();
        let mut ticks = tokio::time::interval(SAVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let save = async {
            loop {
                ticks.tick().await;
                self.save(&path, &mut written).await;
            }
        };
        let ended = tokio::select! {
            ended = accept => ended,
            () = save => Ok(()),
        };
        self.save(&path, &mut written).await;
        ended
    }

    async fn save(&self, path: &std::path::Path, written: &mut Vec<u8>) {
        let mut cache = Cache::default();
        for Endpoint { path, inbound } in &self.api.0 {
            cache.put(path, &inbound.users(), &inbound.sums(false));
        }
        let text = cache.text();
        if text == *written {
            return;
        }
        let (to, text) = (path.to_owned(), text);
        let wrote = tokio::task::spawn_blocking(move || {
            cache::write(&to, &text).map(|()| text).map_err(|error| error.to_string())
        });
        match wrote.await.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(text) => *written = text,
            Err(error) => {
                error!(component = %self.cx.me, "save cache {}: {error}", path.display());
            }
        }
    }
}
