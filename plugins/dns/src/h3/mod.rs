//! DNS server `h3`: DNS over HTTPS with HTTP/3 (RFC 8484, RFC 9114).

use std::{future::poll_fn, sync::Arc};

use bytes::{Buf as _, Bytes};
use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::decode::Options as _;
use h3::client::SendRequest;
use h3_quinn::OpenStreams;

use crate::client::{
    self, Failed, OpenSession, Opened, Post, RemoteHttpsOptions, RemoteOptions, Route, Secure,
    Sessions, Template, Transport, append, check_status, connect_quic,
};

const ALPN: [&str; 1] = ["h3"];

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "h3", schema: RemoteHttpsOptions::describe, canonical: |raw| raw.canonical::<RemoteHttpsOptions>(), parse: client::parse::<Http3> }
}

struct Http3;

impl Transport for Http3 {
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
        client.check_quic()?;
        let opener = Opener(Secure { route: Arc::new(route), client });
        let template = Template::new(options)?;
        Ok(Arc::new(Server { sessions: Sessions::new(opener), template }))
    }
}

struct Opener(Secure);

type Session = SendRequest<OpenStreams, Bytes>;

impl OpenSession for Opener {
    type Session = Session;

    fn open<'a>(
        &'a self,
        trail: &'a crosspoint_kernel::resolve::Trail,
    ) -> BoxFuture<'a, Result<Opened<Session>, ExchangeError>> {
        Box::pin(async move {
            let (endpoint, connection) = connect_quic(&self.0, trail).await?;
            let (mut driver, session) = h3::client::builder()
                .max_field_section_size(16 * 1024)
                .build(h3_quinn::Connection::new(connection))
                .await
                .map_err(ExchangeError::failed)?;
            let work = Box::pin(async move {
                let error = poll_fn(|cx| driver.poll_close(cx)).await;
                drop(endpoint);
                ExchangeError::failed(error)
            });
            Ok(Opened { session, work })
        })
    }
}

struct Server {
    sessions: Sessions<Opener>,
    template: Template,
}

impl Server {
    async fn ask(&self, mut session: Session, post: &Post) -> Result<Vec<u8>, Failed> {
        let request = self.template.request(true, post.body.len(), ());
        let mut stream = session.send_request(request).await.map_err(Failed::again)?;
        let body = Bytes::copy_from_slice(&post.body);
        stream.send_data(body).await.map_err(Failed::again)?;
        stream.finish().await.map_err(Failed::again)?;
        let response = stream.recv_response().await.map_err(Failed::again)?;
        check_status(response.status())?;
        let mut answer = Vec::new();
        while let Some(mut data) = stream.recv_data().await.map_err(Failed::again)? {
            while data.has_remaining() {
                let part = data.chunk();
                append(&mut answer, part)?;
                let length = part.len();
                data.advance(length);
            }
        }
        post.answer(answer)
    }
}

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            let post = Post::new(query.message)?;
            self.sessions.exchange(query.trail, |session| self.ask(session, &post)).await
        })
    }

    fn reset(&self) {
        self.sessions.reset();
    }
}
