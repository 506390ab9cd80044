//! What the tests run on: a server of echoes, and a way to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use crosspoint_kernel::{
    BoxFuture, DialError,
    addr::Target,
    error::{DialClass, Side as Blame},
    flow::BoxStream,
};
use crosspoint_schema::options::{GrpcTransport, HttpTransport, TlsOutOptions, TransportOptions};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::{OwnedSemaphorePermit, watch},
    task::JoinHandle,
};

use crate::transport::{self, AdmitError, Arrived, Carried, Client, Guests, Host, Lower, Server};

pub(super) const PEER: &str = "192.0.2.7:1234";

/// What a server does with its streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Sends everything back, and ends when the client does.
    Echo,
    /// Reads nothing.
    Deaf,
    /// Leaves.
    Rude,
}

pub(super) struct House {
    manner: Manner,
    closing: watch::Receiver<bool>,
    pub(super) taken: AtomicUsize,
    pub(super) sources: Mutex<Vec<Option<SocketAddr>>>,
    next: AtomicU64,
}

impl Host for House {
    fn take(
        self: Arc<Self>,
        arrived: Arrived,
        _id: u64,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        assert_eq!(peer, PEER.parse().unwrap());
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.sources.lock().push(arrived.source);
        let manner = self.manner;
        tokio::spawn(async move {
            host(arrived.stream, manner).await;
            drop(permit);
        });
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn closing(&self) -> BoxFuture<'_, ()> {
        let mut closing = self.closing.clone();
        Box::pin(async move {
            let _ = closing.wait_for(|closing| *closing).await;
        })
    }
}

async fn host(mut stream: BoxStream, manner: Manner) {
    match manner {
        Manner::Echo => {}
        Manner::Deaf => return std::future::pending().await,
        Manner::Rude => return,
    }
    let mut buf = vec![0; 32 << 10];
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => break,
            Ok(n) => {
                if stream.write_all(&buf[..n]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let _ = stream.shutdown().await;
}

/// A server, and the connections to it.
pub(super) struct Site {
    server: Arc<dyn Server>,
    pub(super) house: Arc<House>,
    close: watch::Sender<bool>,
    alpn: Option<&'static [u8]>,
    pub(super) dials: AtomicUsize,
    pub(super) down: AtomicBool,
    pub(super) connections: Mutex<Vec<JoinHandle<Result<(), AdmitError>>>>,
}

impl Site {
    pub(super) fn new(options: &TransportOptions, tls: bool, manner: Manner) -> Arc<Self> {
        let (close, closing) = watch::channel(false);
        let house = House {
            manner,
            closing,
            taken: AtomicUsize::new(0),
            sources: Mutex::default(),
            next: AtomicU64::new(1),
        };
        Arc::new(Self {
            server: transport::server(options, tls).unwrap().of.into(),
            house: Arc::new(house),
            close,
            alpn: tls.then_some(b"h2"),
            dials: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            connections: Mutex::default(),
        })
    }

    /// The instance of the inbound gives way to another one.
    pub(super) fn close(&self) {
        self.close.send_replace(true);
    }

    /// A connection that the server has accepted.
    pub(super) fn connect(self: &Arc<Self>) -> DuplexStream {
        let (near, far) = duplex(256 << 10);
        let (site, host) = (self.clone(), self.house.clone());
        let task = tokio::spawn(async move {
            let guests = Guests::new(host.clone(), PEER.parse().unwrap());
            let carried =
                Carried { stream: Box::new(far), alpn: site.alpn.map(|alpn| alpn.into()) };
            let arrived = site.server.admit(carried, &guests).await?;
            if let Some(arrived) = arrived {
                host.sources.lock().push(arrived.source);
                host.taken.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(self::host(arrived.stream, host.manner));
            }
            Ok(())
        });
        self.connections.lock().push(task);
        near
    }

    /// Breaks all connections.
    pub(super) fn kill(&self) {
        for task in self.connections.lock().drain(..) {
            task.abort();
        }
    }

    /// How the only connection ended.
    pub(super) async fn ended(&self) -> Result<(), AdmitError> {
        let task = self.connections.lock().pop().unwrap();
        task.await.unwrap()
    }

    pub(super) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }
}

impl Lower for Arc<Site> {
    fn open(&self) -> BoxFuture<'_, Result<Carried, DialError>> {
        Box::pin(async {
            self.dials.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if self.down.load(Ordering::Relaxed) {
                return Err(DialError::new(DialClass::Refused, Blame::Proxy, "down"));
            }
            let stream = Box::new(self.connect());
            Ok(Carried { stream, alpn: self.alpn.map(|alpn| alpn.into()) })
        })
    }
}

pub(super) fn client(options: &TransportOptions, tls: bool) -> Box<dyn Client> {
    let secured = TlsOutOptions { enabled: true, ..TlsOutOptions::default() };
    let server = Target::new("server.example", 443);
    transport::client(options, &server, tls.then_some(&secured)).unwrap().of
}

pub(super) fn http() -> TransportOptions {
    TransportOptions::Http(HttpTransport { path: "/a b".to_owned(), ..Default::default() })
}

pub(super) fn grpc() -> TransportOptions {
    let service_name = "a/service".to_owned();
    TransportOptions::Grpc(GrpcTransport { service_name, ..Default::default() })
}

/// Every way that there is: options, and whether TLS lies below.
pub(super) fn ways() -> [(TransportOptions, bool); 4] {
    [(http(), true), (http(), false), (grpc(), true), (grpc(), false)]
}
