//! The HTTP client against servers of hyper and of a few lines.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use crosspoint_kernel::{
    BoxFuture, DialError, Kind,
    component::{Dial, Incarnation, Outbound},
    error::Side,
    fetch::{Fetch as _, FetchError, Method, Request, Response},
    flow::{BoxPacketIo, BoxStream},
    slot::Slot,
};
use crosspoint_layers::fetch::HttpClient;
use crosspoint_schema::options::{CertificateOptions, TlsInOptions};
use crosspoint_tls::{Plan, Server, ServerDefaults, Store};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Connects to one address, wherever to.
struct To(SocketAddr);

impl Outbound for To {
    fn connect<'a>(&'a self, _dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async {
            let stream = TcpStream::connect(self.0).await;
            Ok(Box::new(stream.map_err(|e| DialError::from_io(&e, Side::Target))?) as BoxStream)
        })
    }

    fn associate<'a>(&'a self, _dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("a test")) })
    }
}

fn slot(to: SocketAddr) -> Arc<Slot<dyn Outbound>> {
    let slot: Arc<Slot<dyn Outbound>> = Slot::new("out".into());
    let life = Incarnation { kind: Kind::Outbound, type_name: "test", tag: "out".into(), epoch: 1 };
    slot.set(Arc::new(life), Arc::new(To(to)));
    slot
}

fn client(to: SocketAddr, store: Arc<Store>) -> HttpClient {
    let slot = slot(to);
    HttpClient::new(move || Some(slot.clone())).trusting(store)
}

async fn answer(
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, http::Error> {
    let build = http::Response::builder();
    let text = |text: String| Full::new(Bytes::from(text));
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|v| v.to_str().unwrap_or_default())
            .unwrap_or("-")
            .to_owned()
    };
    match request.uri().path() {
        "/who" => {
            let host =
                request.uri().authority().map_or_else(|| header("host"), ToString::to_string);
            let said = [
                request.method().to_string(),
                host,
                format!("{:?}", request.version()),
                header("user-agent"),
                header("authorization"),
                header("x-own"),
            ];
            build.header("x-answer", "yes").body(text(said.join(" ")))
        }
        "/echo" => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes());
            build.body(Full::new(body.unwrap_or_default()))
        }
        // Over HTTP/2, hyper would send the body all the same.
        "/long" if request.method() == http::Method::HEAD => {
            build.header("content-length", "100000").body(text(String::new()))
        }
        "/long" => build.body(text("x".repeat(100_000))),
        "/loop" => build.status(302).header("location", "loop").body(text("again".into())),
        "/to" => build.status(303).header("location", "/who?x").body(text(String::new())),
        "/keep" => build.status(308).header("location", "./echo").body(text(String::new())),
        "/away" => {
            build.status(301).header("location", "https://other.test/who").body(text(String::new()))
        }
        "/same" => build.status(304).header("etag", "\"a\"").body(text(String::new())),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            build.body(text(String::new()))
        }
        _ => build.status(404).body(text("nothing here".into())),
    }
}

/// A server of both versions, with TLS if there is a certificate.
async fn serve(tls: Option<Server>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let (stream, h2): (BoxStream, bool) = match tls {
                    None => (Box::new(stream), false),
                    Some(tls) => match tls.accept(Box::new(stream)).await {
                        Ok(stream) => {
                            let h2 = stream.alpn() == Some(b"h2");
                            (Box::new(stream), h2)
                        }
                        Err(_) => return,
                    },
                };
                let (io, service) = (TokioIo::new(stream), service_fn(answer));
                // How a client ends a connection is its own affair.
                if h2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).await;
                }
            });
        }
    });
    addr
}

fn certified(alpn: &[&str]) -> (Server, Arc<Store>) {
    let names = vec!["web.test".to_owned(), "other.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let options = TlsInOptions {
        certificate: vec![made.cert.pem()].into(),
        key: vec![made.signing_key.serialize_pem().as_str().into()].into(),
        alpn: alpn.iter().map(|&s| s.to_owned()).collect::<Vec<_>>().into(),
        ..TlsInOptions::default()
    };
    let trusted = CertificateOptions {
        store: crosspoint_schema::options::CertificateStore::None,
        certificate: vec![made.cert.pem()].into(),
        ..CertificateOptions::default()
    };
    let server = Server::new(&options, &ServerDefaults::default()).unwrap();
    (server, Store::new(Plan::new(&trusted).unwrap()))
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

#[tokio::test]
async fn one_request_in_every_version() {
    let plain = serve(None).await;
    let agent = format!("crosspoint/{}", env!("CARGO_PKG_VERSION"));
    let client = client(plain, Store::process().clone());
    let mut request = Request::get("http://u:p@web.test:8080/who");
    request.headers = vec![("X-Own".into(), "1".into()), ("Host".into(), "evil.test".into())];
    let response = client.fetch(request).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-answer"), Some("yes"));
    assert_eq!(text(&response), format!("GET web.test:8080 HTTP/1.1 {agent} Basic dTpw 1"));
    for (alpn, version) in
        [(&["h2"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
    {
        let (server, store) = certified(alpn);
        let client = self::client(serve(Some(server)).await, store);
        let response = client.fetch(Request::get("https://web.test/who")).await.unwrap();
        assert_eq!(text(&response), format!("GET web.test {version} {agent} - -"));
        let post = Request {
            method: Method::Post,
            body: Bytes::from_static(b"a body"),
            ..Request::get("https://web.test/echo")
        };
        assert_eq!(text(&client.fetch(post).await.unwrap()), "a body");
        let head = Request { method: Method::Head, ..Request::get("https://web.test/long") };
        let response = client.fetch(head).await.unwrap();
        assert_eq!((response.status, response.body.len()), (200, 0));
        assert_eq!(response.header("content-length"), Some("100000"));
    }
}

#[tokio::test]
async fn redirects_are_followed_so_far() {
    let (server, store) = certified(&["h2"]);
    let client = client(serve(Some(server)).await, store);
    let mut request = Request::get("https://web.test/away");
    request.headers = vec![("authorization".into(), "secret".into()), ("x-own".into(), "1".into())];
    let response = client.fetch(request.clone()).await.unwrap();
    let said = text(&response);
    assert!(said.starts_with("GET other.test ") && said.ends_with(" - 1"), "{said}");
    request.url = "https://web.test/to".into();
    request.method = Method::Post;
    let said = text(&client.fetch(request).await.unwrap());
    assert!(said.starts_with("GET web.test ") && said.ends_with(" secret 1"), "{said}");
    let keep = Request {
        method: Method::Post,
        body: Bytes::from_static(b"kept"),
        ..Request::get("https://web.test/keep")
    };
    assert_eq!(text(&client.fetch(keep).await.unwrap()), "kept");
    let error = client.fetch(Request::get("https://web.test/loop")).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
    let response = client.fetch(Request::get("https://web.test/same")).await.unwrap();
    assert_eq!((response.status, response.header("etag")), (304, Some("\"a\"")));
    let response = client.fetch(Request::get("https://web.test/none")).await.unwrap();
    assert_eq!((response.status, text(&response).as_str()), (404, "nothing here"));
}

#[tokio::test]
async fn limits_hold() {
    let client = client(serve(None).await, Store::process().clone());
    let mut request = Request::get("http://web.test/long");
    request.body_limit = 99_999;
    let error = client.fetch(request.clone()).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLong(99_999)), "{error}");
    request.body_limit = 100_000;
    assert_eq!(client.fetch(request).await.unwrap().body.len(), 100_000);
    let slow =
        Request { timeout: Duration::from_millis(200), ..Request::get("http://web.test/slow") };
    assert!(matches!(client.fetch(slow).await, Err(FetchError::TimedOut(_))));
    for bad in ["", "web.test", "ftp://web.test/", "http://a b/"] {
        assert!(matches!(client.fetch(Request::get(bad)).await, Err(FetchError::Url(_))), "{bad}");
    }
}

#[tokio::test]
async fn servers_that_misbehave_are_errors() {
    let (server, _) = certified(&["h2"]);
    let (_, store) = certified(&[]);
    let client = client(serve(Some(server)).await, store);
    let error = client.fetch(Request::get("https://web.test/who")).await.unwrap_err().to_string();
    assert!(error.contains("web.test:443") && error.contains("unknown authority"), "{error}");

    for reply in [
        &b"SSH-2.0-x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = self::client(listener.local_addr().unwrap(), Store::process().clone());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(reply).await;
        });
        let error = client.fetch(Request::get("http://web.test/")).await.unwrap_err();
        assert!(matches!(error, FetchError::Failed(_)), "{reply:?}: {error}");
    }
    // A head without end is not collected for ever.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = self::client(listener.local_addr().unwrap(), Store::process().clone());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
        for _ in 0..100 {
            let _ = stream.write_all(&[b'x'; 4096]).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
    assert!(matches!(
        client.fetch(Request::get("http://web.test/")).await,
        Err(FetchError::Failed(_))
    ));
    // Nobody to go through.
    let nobody = HttpClient::new(|| None);
    let error = nobody.fetch(Request::get("http://web.test/")).await.unwrap_err();
    assert!(error.to_string().contains("no outbound"), "{error}");
}
