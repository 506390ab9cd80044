//! DNS server `https`: DNS over HTTPS (RFC 8484) with HTTP/2, or HTTP/1.1 where the server has no better.

mod http1;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query, Trail},
};
use crosspoint_schema::decode::Options as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use self::http1::Http1;
use crate::client::{
    self, Failed, OpenSession, Opened, Post, RemoteHttpsOptions, RemoteOptions, Route, Secure,
    Sessions, Template, Transport, append, check_status,
};

/// Silence after which a server that owes answers is asked whether it is there, and time for its answer.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// What is offered unless options say otherwise.
const ALPN: [&str; 2] = ["h2", "http/1.1"];

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "https", schema: RemoteHttpsOptions::describe, canonical: |raw| raw.canonical::<RemoteHttpsOptions>(), parse: client::parse::<Https> }
}

struct Https;

impl Transport for Https {
    type Options = RemoteHttpsOptions;
    const PORT: u16 = 443;

    fn remote(options: &RemoteHttpsOptions) -> &RemoteOptions {
        &options.remote.remote
    }

    fn check(options: &RemoteHttpsOptions) -> Result<(), BuildError> {
        Template::new(options)?;
        options.remote.client(&ALPN, None).map(drop)
    }

    fn serve(
        options: &RemoteHttpsOptions,
        route: Route,
        cx: &BuildCx,
    ) -> Result<Arc<dyn DnsServer>, BuildError> {
        let client = options.remote.client(&ALPN, Some(cx))?;
        let secure = Arc::new(Secure { route: Arc::new(route), client });
        let template = Template::new(options)?;
        Ok(Arc::new(Server { sessions: Sessions::new(Opener(secure)), template }))
    }
}

struct Opener(Arc<Secure>);

#[derive(Clone)]
enum Session {
    Http2(http2::SendRequest<Full<Bytes>>),
    Http1(Arc<Http1>),
}

impl OpenSession for Opener {
    type Session = Session;

    fn open<'a>(
        &'a self,
        trail: &'a Trail,
    ) -> BoxFuture<'a, Result<Opened<Session>, ExchangeError>> {
        Box::pin(async move {
            let stream = self.0.connect(trail).await?;
            if stream.alpn() != Some(b"h2") {
                let http1 = Http1::new(self.0.clone(), stream).await?;
                // Nothing to do between requests: connections are opened by whoever needs one.
                let work = Box::pin(std::future::pending());
                return Ok(Opened { session: Session::Http1(Arc::new(http1)), work });
            }
            let (session, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .max_header_list_size(16 * 1024)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(ExchangeError::failed)?;
            let work = Box::pin(async move {
                match connection.await {
                    Ok(()) => ExchangeError::failed("closed by the server"),
                    Err(error) => ExchangeError::failed(error),
                }
            });
            Ok(Opened { session: Session::Http2(session), work })
        })
    }
}

struct Server {
    sessions: Sessions<Opener>,
    template: Template,
}

impl Server {
    async fn ask(&self, session: Session, trail: &Trail, post: &Post) -> Result<Vec<u8>, Failed> {
        let body = Bytes::copy_from_slice(&post.body);
        let response = match session {
            Session::Http2(mut session) => {
                session.ready().await.map_err(Failed::again)?;
                let request = self.template.request(true, body.len(), Full::new(body));
                let response = session.send_request(request).await.map_err(Failed::again)?;
                read(response).await?
            }
            Session::Http1(session) => {
                let request = self.template.request(false, body.len(), Full::new(body));
                session.ask(request, trail).await?
            }
        };
        post.answer(response)
    }
}

/// Reads an answer.
async fn read(mut response: Response<Incoming>) -> Result<Vec<u8>, Failed> {
    check_status(response.status())?;
    let mut body = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        if let Ok(data) = frame.map_err(Failed::again)?.into_data() {
            append(&mut body, &data)?;
        }
    }
    Ok(body)
}

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            let post = Post::new(query.message)?;
            let ask = |session| self.ask(session, query.trail, &post);
            self.sessions.exchange(query.trail, ask).await
        })
    }

    fn reset(&self) {
        self.sessions.reset();
    }
}
