use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use crosspoint_kernel::flow::BoxStream;
use crosspoint_schema::options::TlsInOptions;
use crosspoint_tls::{Server as TlsServer, ServerDefaults};
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::client::server::tests::options;

/// TLS of a server with a certificate that it makes up.
fn tls(alpn: &[&str]) -> TlsServer {
    let options: TlsInOptions = options(r#"{"enabled": true, "insecure": true}"#);
    TlsServer::new(&options, &ServerDefaults { alpn, ..ServerDefaults::default() }).unwrap()
}

/// A server of that type, whose certificate is not looked at.
async fn careless(type_name: &str, addr: SocketAddr) -> Arc<dyn DnsServer> {
    let text = format!(
        r#"{{"type": "{type_name}", "server": "{}", "server_port": {},
             "tls": {{"insecure": true, "server_name": "dns.test"}}}}"#,
        addr.ip(),
        addr.port()
    );
    build(&text, &[]).await
}

async fn tls_server<F>(
    alpn: &'static [&'static str],
    serve: impl Fn(usize, BoxStream) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let tls = tls(alpn);
    tcp_server(listener().await, move |n, stream| {
        let (tls, serve) = (tls.clone(), serve.clone());
        async move {
            if let Ok(stream) = tls.accept(Box::new(stream)).await {
                serve(n, Box::new(stream)).await;
            }
        }
    })
    .await
}

/// Asks many at once, with answers checked.
async fn many(server: &Arc<dyn DnsServer>, count: u16) {
    join_all((0..count).map(|n| {
        let server = server.clone();
        async move { ask_well(&*server, n, &format!("q{n}.test")).await }
    }))
    .await;
}

#[tokio::test]
async fn tls_is_a_stream_like_any_other() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let addr = tls_server(&[], move |n, mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            // The first connection ends after five answers.
            for _ in 0..if n == 0 { 5 } else { usize::MAX } {
                let Some(query) = read_frame(&mut stream).await else { return };
                write_frame(&mut stream, &answer(&query)).await;
            }
        }
    })
    .await;
    let server = careless("tls", addr).await;
    for n in 0..8 {
        ask_well(&*server, n, "a.test").await;
    }
    many(&server, 100).await;
    assert!(opened.load(Ordering::Relaxed) <= 6, "{opened:?}");
    // A certificate that nobody vouches for is refused.
    let text =
        format!(r#"{{"type": "tls", "server": "127.0.0.1", "server_port": {}}}"#, addr.port());
    let error = ask(&*build(&text, &[]).await, 7, "a.test").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

/// What an HTTP server does with a query.
async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri().path(), "/dns-query");
    let host = request.uri().authority().map(ToString::to_string);
    let host = host.or_else(|| Some(request.headers().get("host")?.to_str().ok()?.to_owned()));
    assert!(host.unwrap().starts_with("dns.test:"));
    assert_eq!(request.headers()["content-type"], "application/dns-message");
    assert_eq!(request.headers()["accept"], "application/dns-message");
    let query = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(wire::id(&query), 0, "caches want equal queries to be equal");
    let mut response = Response::new(Full::new(Bytes::from(answer(&query))));
    if query.windows(6).any(|part| part == b"broken") {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    Ok(response)
}

async fn https_server(alpn: &'static [&'static str], opened: Arc<AtomicUsize>) -> SocketAddr {
    tls_server(alpn, move |n, stream| {
        opened.fetch_add(1, Ordering::Relaxed);
        async move {
            let (io, service) = (TokioIo::new(stream), service_fn(respond));
            // The first connection is cut after a while.
            let limit = Duration::from_millis(if n == 0 { 500 } else { 60_000 });
            let work = async {
                if alpn.contains(&"h2") {
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(io, service).await;
                } else {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(io, service).await;
                }
            };
            let _ = tokio::time::timeout(limit, work).await;
        }
    })
    .await
}

#[tokio::test]
async fn https_shares_one_connection() {
    let opened = Arc::new(AtomicUsize::new(0));
    let addr = https_server(&["h2"], opened.clone()).await;
    let server = careless("https", addr).await;
    many(&server, 200).await;
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let error = ask(&*server, 7, "broken.test").await.unwrap_err().to_string();
    assert_eq!(error, "unexpected status: 502 Bad Gateway");
    tokio::time::sleep(Duration::from_millis(600)).await;
    many(&server, 200).await;
    assert_eq!(opened.load(Ordering::Relaxed), 2, "the next one after the cut");
    server.reset();
    many(&server, 2).await;
    assert_eq!(opened.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn https_makes_do_with_the_old_http() {
    for alpn in [&["http/1.1"][..], &[]] {
        let opened = Arc::new(AtomicUsize::new(0));
        let addr = https_server(alpn, opened.clone()).await;
        let server = careless("https", addr).await;
        for n in 0..5 {
            ask_well(&*server, n, "a.test").await;
        }
        assert_eq!(opened.load(Ordering::Relaxed), 1, "connections are used again");
        many(&server, 100).await;
        assert!(opened.load(Ordering::Relaxed) <= 17, "{opened:?}");
        tokio::time::sleep(Duration::from_millis(600)).await;
        many(&server, 10).await;
    }
}

#[tokio::test]
async fn https_leaves_a_server_that_hangs() {
    let addr = tls_server(&["h2"], |n, stream| async move {
        if n == 0 {
            // Not a word of HTTP.
            tokio::time::sleep(Duration::from_secs(30)).await;
            drop(stream);
            return;
        }
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(stream), service_fn(respond)).await;
    })
    .await;
    let server = careless("https", addr).await;
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn endpoint(alpn: &[&str]) -> quinn::Endpoint {
    let config = tls(alpn).quic().unwrap();
    quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn quic_has_a_stream_for_each_query() {
    let endpoint = endpoint(&["doq"]);
    let addr = endpoint.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let n = count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let connection = incoming.await.unwrap();
                let mut served = 0;
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let mut message = receive.read_to_end(70_000).await.unwrap();
                    let query = message.split_off(2);
                    assert_eq!(usize::from(wire::id(&message)), query.len());
                    assert_eq!(wire::id(&query), 0);
                    let mut found = answer(&query);
                    if query.windows(4).any(|part| part == b"long") {
                        found.resize(65_535, 9);
                    }
                    let length = u16::try_from(found.len()).unwrap();
                    send.write_all(&[&length.to_be_bytes()[..], &found].concat()).await.unwrap();
                    send.finish().unwrap();
                    served += 1;
                    if n == 0 && served == 50 {
                        let _ = send.stopped().await;
                        connection.close(0u32.into(), b"");
                        return;
                    }
                }
            });
        }
    });
    let server = careless("quic", addr).await;
    many(&server, 50).await;
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    many(&server, 300).await;
    assert_eq!(opened.load(Ordering::Relaxed), 2);
    assert_eq!(ask(&*server, 7, "long.test").await.unwrap().len(), 65_535);
}

#[tokio::test]
async fn http3_shares_one_connection() {
    let endpoint = endpoint(&["h3"]);
    let addr = endpoint.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let connection = h3_quinn::Connection::new(incoming.await.unwrap());
                let mut http = h3::server::Connection::<_, Bytes>::new(connection).await.unwrap();
                while let Ok(Some(request)) = http.accept().await {
                    tokio::spawn(async move {
                        let (request, mut stream) = request.resolve_request().await.unwrap();
                        assert_eq!(request.uri().path(), "/dns-query");
                        assert!(
                            request.uri().authority().unwrap().as_str().starts_with("dns.test:")
                        );
                        let mut query = Vec::new();
                        while let Some(mut data) = stream.recv_data().await.unwrap() {
                            query.extend(data.copy_to_bytes(data.remaining()));
                        }
                        stream.send_response(Response::new(())).await.unwrap();
                        stream.send_data(answer(&query).into()).await.unwrap();
                        stream.finish().await.unwrap();
                    });
                }
            });
        }
    });
    let server = careless("h3", addr).await;
    many(&server, 200).await;
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    server.reset();
    many(&server, 20).await;
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn quic_without_a_server_fails_soon() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    drop(socket);
    for type_name in ["quic", "h3"] {
        let begun = Instant::now();
        let error = ask(&*careless(type_name, addr).await, 7, "a.test").await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{type_name}: {:?}: {error}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn quic_without_tls_1_3_is_refused_when_it_is_built() {
    for type_name in ["quic", "h3"] {
        let with = |tls: &str| {
            format!(r#"{{"type": "{type_name}", "server": "192.0.2.1", "tls": {tls}}}"#)
        };
        let error = try_build(&with(r#"{"max_version": "1.2"}"#), &[], None).await.err().unwrap();
        assert!(error.to_string().contains("QUIC needs TLS 1.3"), "{error}");
        assert!(try_build(&with(r#"{"max_version": "1.3"}"#), &[], None).await.is_ok());
    }
}

#[tokio::test]
async fn a_server_may_have_a_zone() {
    for type_name in ["udp", "tcp", "tls", "https", "h3", "quic"] {
        let text = format!(r#"{{"type": "{type_name}", "server": "fe80::1%eth0"}}"#);
        try_build(&text, &[], None).await.expect(type_name);
    }
}
