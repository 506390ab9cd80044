//! One connection: TLS, HTTP, and DERP behind an upgrade.
//!
//! The upgrade is looked for in the first request of a connection, before there is an HTTP server for it: a client that
//! asks for a fast start wants no answer at all, and an HTTP server cannot help giving one. Clients upgrade in the first
//! request; a later one is told to come again on a connection of its own.

use std::{convert::Infallible, future::poll_fn, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use crosspoint_derp::{
    handshake,
    hub::{Hub, Origin},
    info,
};
use crosspoint_kernel::{
    BuildCx,
    flow::{BoxStream, Prefixed},
    serve::{self, Accepted, HANDSHAKE_TIMEOUT},
    session::{Network, Session},
};
use crosspoint_layers::{
    input::Input,
    transport::{
        head::parse::{self, Request},
        ws,
    },
};
use crosspoint_tls::Server as Tls;
use http::header;
use hyper::{body::Body as _, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt as _, sync::OwnedSemaphorePermit};
use tracing::debug;

use super::{pages::Pages, verify::Verifier};

/// Longest head of a first request that is searched for an upgrade.
const MAX_HEAD: usize = 16 << 10;

/// What HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A running service.
pub(super) struct Front {
    pub(super) cx: BuildCx,
    pub(super) tls: Tls,
    pub(super) hub: Arc<Hub>,
    pub(super) pages: Pages,
    pub(super) verifier: Verifier,
}

/// How a connection goes on.
enum Way {
    /// DERP, behind this answer (a WebSocket has got it already); in WebSocket messages, if so.
    Derp {
        answer: Vec<u8>,
        websocket: bool,
        not_ideal: bool,
    },
    /// HTTP.
    Http1,
    Http2,
}

/// A connection that is told apart from others in the log.
struct Caller {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    permit: OwnedSemaphorePermit,
}

impl Front {
    pub(super) async fn serve(self: Arc<Self>, accepted: Accepted) {
        let Accepted { id, stream, peer, permit } = accepted;
        let Ok(local) = stream.local_addr() else { return };
        let caller = Caller { id, peer, local, permit };
        let failed = |error: &dyn std::fmt::Display| {
            debug!(conn = id, component = %self.cx.me, "connection from {peer}: {error}");
        };
        let stream = match self.tls.accept(Box::new(stream)).await {
            Ok(stream) => stream,
            Err(error) => return failed(&error),
        };
        let h2 = stream.alpn() == Some(b"h2");
        let mut stream: BoxStream = Box::new(stream);
        let mut input = Input::default();
        let way = if h2 {
            Way::Http2
        } else {
            // Boxed: what it needs is not needed any more when the connection is idle.
            let work = Box::pin(self.way(&mut stream, &mut input));
            match serve::handshake(HANDSHAKE_TIMEOUT, work).await {
                Ok(way) => way,
                Err(error) => return failed(&error),
            }
        };
        let result = match way {
            Way::Http1 => Box::pin(self.http1(caller, ahead(stream, &input))).await,
            Way::Http2 => Box::pin(self.http2(caller, ahead(stream, &input))).await,
            Way::Derp { answer, websocket, not_ideal } => {
                if websocket {
                    stream = ws::upgraded(ahead(stream, &input));
                    input = Input::default();
                }
                return self.derp(caller, stream, input, answer, not_ideal).await;
            }
        };
        if let Err(error) = result {
            failed(&error);
        }
    }

    /// Looks at the first request. What is DERP is consumed, and a WebSocket is answered.
    async fn way(&self, stream: &mut BoxStream, input: &mut Input) -> io::Result<Way> {
        let mut searched = 0;
        let end = loop {
            let held = input.bytes();
            if held.starts_with(&PREFACE[..held.len().min(PREFACE.len())]) && !held.is_empty() {
                if held.len() >= PREFACE.len() {
                    return Ok(Way::Http2);
                }
            } else if let Some(end) = parse::end(held, searched) {
                break end;
            } else {
                searched = held.len();
            }
            if held.len() >= MAX_HEAD {
                return Ok(Way::Http1);
            }
            let need = held.len() + 1;
            if poll_fn(|cx| input.poll_receive(cx, stream, need)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = input.bytes().get(..end).unwrap_or_default();
        // What is no request is answered by the HTTP server.
        let Ok(request) = Request::parse(head) else { return Ok(Way::Http1) };
        let mut way = self.decide(&request);
        if let Way::Derp { answer, websocket, .. } = &mut way {
            input.consume(end);
            if *websocket {
                stream.write_all(answer).await?;
                stream.flush().await?;
                answer.clear();
            }
        }
        Ok(way)
    }

    fn decide(&self, request: &Request<'_>) -> Way {
        let fields = &request.fields;
        if request.uri.path.plain() != b"/derp" {
            return Way::Http1;
        }
        let not_ideal = !fields.get("ideal-node").is_empty();
        let upgrade = fields.get("upgrade");
        // Very old clients ask for WebSocket and speak none; the subprotocol tells them apart.
        let protocol = String::from_utf8_lossy(fields.get("sec-websocket-protocol"));
        if upgrade.eq_ignore_ascii_case(b"websocket") && protocol.contains("derp") {
            let offers = protocol.split(',').any(|name| name.trim() == "derp");
            // Without its fields, or without the protocol among those offered, it is none.
            let (Ok(key), true) = (ws::check(request), offers) else { return Way::Http1 };
            let key = ws::accept_key(key);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: derp\r\n\r\n"
            );
            return Way::Derp { answer: answer.into_bytes(), websocket: true, not_ideal };
        }
        if !upgrade.eq_ignore_ascii_case(b"derp") && !upgrade.eq_ignore_ascii_case(b"websocket") {
            return Way::Http1;
        }
        let answer = match fields.get("derp-fast-start") {
            b"1" => String::new(),
            _ => format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
                 Derp-Version: {}\r\nDerp-Public-Key: {}\r\n\r\n",
                info::VERSION,
                self.hub.public().hex()
            ),
        };
        Way::Derp { answer: answer.into_bytes(), websocket: false, not_ideal }
    }

    async fn derp(
        &self,
        caller: Caller,
        mut stream: BoxStream,
        mut input: Input,
        answer: Vec<u8>,
        not_ideal: bool,
    ) {
        let Caller { id, peer, local, permit } = caller;
        let me = &self.cx.me;
        let work = async {
            stream.write_all(&answer).await.map_err(|error| error.to_string())?;
            let newcomer = handshake::accept(&mut stream, &mut input, self.hub.private()).await;
            let newcomer = newcomer.map_err(|error| error.to_string())?;
            if !self.hub.trusts(&newcomer) {
                let admitted = self.verifier.admit(newcomer.key, peer.ip()).await;
                admitted.map_err(|why| format!("client {} rejected: {why}", newcomer.key))?;
            }
            Ok::<_, String>(newcomer)
        };
        let newcomer = match Box::pin(work).await {
            Ok(newcomer) => newcomer,
            Err(why) => {
                debug!(conn = id, component = %me, "connection from {peer}: {why}");
                return;
            }
        };
        let key = newcomer.key;
        let mut session = Session::new(id, me.clone(), Network::Tcp, peer, local.into());
        session.user = Some(key.to_string().into());
        let entry = self.cx.plane.ledger.register(&session);
        drop(session);
        debug!(conn = id, component = %me, "client {key:?} at {peer}");
        let origin = Origin { addr: peer, not_ideal };
        let end = self.hub.clone().serve(stream, input, newcomer, origin, Some(entry)).await;
        debug!(conn = id, component = %me, "client {key:?} at {peer}: {end}");
        drop(permit);
    }

    async fn http1(&self, caller: Caller, stream: BoxStream) -> hyper::Result<()> {
        let answer = service_fn(|request| self.answer(&caller, request));
        let serve = conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::pin!(serve);
        tokio::select! {
            ended = &mut serve => ended,
            () = self.cx.cancel.cancelled() => {
                serve.as_mut().graceful_shutdown();
                serve.await
            }
        }
    }

    async fn http2(self: &Arc<Self>, caller: Caller, stream: BoxStream) -> hyper::Result<()> {
        // Requests of one connection are answered side by side, in tasks of their own.
        let (front, caller) = (self.clone(), Arc::new(caller));
        let answer = service_fn(move |request| {
            let (front, caller) = (front.clone(), caller.clone());
            async move { front.answer(&caller, request).await }
        });
        let serve = conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(16)
            .keep_alive_interval(HANDSHAKE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::pin!(serve);
        tokio::select! {
            ended = &mut serve => ended,
            () = self.cx.cancel.cancelled() => {
                serve.as_mut().graceful_shutdown();
                serve.await
            }
        }
    }

    async fn answer(
        &self,
        caller: &Caller,
        request: http::Request<hyper::body::Incoming>,
    ) -> Result<super::pages::Answer, Infallible> {
        let (method, uri) = (request.method(), request.uri());
        debug!(conn = caller.id, component = %self.cx.me, "{method} {uri} {}", caller.peer);
        let mut answer = self.pages.answer(&request).await;
        if request.version() == http::Version::HTTP_2 {
            // There it is forbidden (RFC 9113 §8.2.2).
            answer.headers_mut().remove(header::CONNECTION);
            // And there the server does not leave out by itself what nobody asked for.
            if request.method() == http::Method::HEAD {
                let len = answer.body().size_hint().exact().unwrap_or(0);
                answer.headers_mut().insert(header::CONTENT_LENGTH, len.into());
                *answer.body_mut() = http_body_util::Full::default();
            }
        }
        Ok(answer)
    }
}

/// The stream with what was read ahead in front.
fn ahead(stream: BoxStream, input: &Input) -> BoxStream {
    match input.bytes() {
        [] => stream,
        bytes => Box::new(Prefixed::new(Bytes::copy_from_slice(bytes), stream)),
    }
}
