//! What carries a protocol's stream between its two ends: the V2Ray transports.
//!
//! One folder per transport. Each offers `client` and `server`, which read the options and fail on what is wrong, and
//! the application protocols that TLS below them speaks of by default.

pub mod grpc;
mod h2;
pub mod head;
pub mod http;
mod httpupgrade;
pub mod ws;

use std::{borrow::Cow, io, net::SocketAddr, sync::Arc};

use crosspoint_kernel::{BoxFuture, BuildError, DialError, addr::Target, flow::BoxStream, serve};
use crosspoint_schema::options::{TlsInOptions, TlsOutOptions, TransportOptions};
use tokio::sync::OwnedSemaphorePermit;

/// A stream below a transport: dialled or accepted, with TLS where that is configured.
pub struct Carried {
    /// The stream.
    pub stream: BoxStream,
    /// The application protocol that TLS agreed on.
    pub alpn: Option<Box<[u8]>>,
}

/// Opens streams below a transport.
pub trait Lower: Send + Sync {
    /// Opens one more.
    ///
    /// # Errors
    /// The dial or the TLS handshake failed.
    fn open(&self) -> BoxFuture<'_, Result<Carried, DialError>>;
}

/// The client side of a transport: one for each outbound instance. Connections that several streams share live in it,
/// and end when it is dropped and their last stream has ended.
pub(crate) trait Client: Send + Sync {
    /// Opens a stream to the server.
    fn open<'a>(&'a self, lower: &'a dyn Lower) -> BoxFuture<'a, Result<BoxStream, DialError>>;
}

/// The server side of a transport: one for each inbound instance.
pub(crate) trait Server: Send + Sync {
    /// Lets a client in. A transport of one stream returns it; one of many gives each to `guests` and returns nothing
    /// when the connection has ended.
    fn admit<'a>(
        &'a self,
        carried: Carried,
        guests: &'a Guests,
    ) -> BoxFuture<'a, Result<Option<Arrived>, AdmitError>>;
}

/// A stream of the protocol, after everything that carries it.
pub struct Arrived {
    /// The stream.
    pub stream: BoxStream,
    /// The application protocol that TLS agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// The client that a reverse proxy in front names (`X-Forwarded-For`), believed as the reference does.
    pub source: Option<SocketAddr>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(#[from] crosspoint_tls::HandshakeError),
    /// The connection broke, or was silent for too long.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What the client asked for is not what this server offers.
    #[error("{0}")]
    Refused(String),
}

impl AdmitError {
    /// Whether the client went away or stayed silent, which is everyday life of a server.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Tls(error) => error.is_quiet(),
            Self::Io(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// Takes the streams that arrive together in one connection.
pub trait Host: Send + Sync + 'static {
    /// Serves a stream in a task of its own.
    fn take(
        self: Arc<Self>,
        stream: Arrived,
        id: u64,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    );
    /// A number for a connection.
    fn next_id(&self) -> u64;
    /// Ends when the inbound takes no more streams, because another instance of it does.
    fn closing(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Where a transport of many streams puts them.
#[derive(Clone)]
pub struct Guests {
    host: Arc<dyn Host>,
    peer: SocketAddr,
}

impl Guests {
    /// The streams of one client.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, peer: SocketAddr) -> Self {
        Self { host, peer }
    }

    /// The client that the connection comes from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Ends when the inbound takes no more streams: a connection that may bring more must end with those that it has.
    pub async fn closing(&self) {
        self.host.closing().await;
    }

    /// Hands a stream over; it runs in a task of its own. Waits while the daemon has as many connections as it may
    /// have; returns false when it takes no more.
    pub async fn take(&self, arrived: Arrived) -> bool {
        let Ok(permit) = serve::permits().acquire_owned().await else { return false };
        self.host.clone().take(arrived, self.host.next_id(), self.peer, permit);
        true
    }
}

/// A side of a transport, and what TLS below it speaks of where the user configured nothing.
pub(crate) struct Side<T: ?Sized> {
    pub(crate) alpn: &'static [&'static str],
    pub(crate) of: Box<T>,
}

/// The client side that the options describe.
///
/// # Errors
/// The options are wrong, or ask for what this build lacks.
pub(crate) fn client(
    options: &TransportOptions,
    server: &Target,
    tls: Option<&TlsOutOptions>,
) -> Result<Side<dyn Client>, BuildError> {
    match options {
        TransportOptions::Http(options) => http::client(options, server, tls.is_some()),
        TransportOptions::Grpc(options) => {
            grpc::client(options, server, tls.map(|tls| tls.server_name.as_str()))
        }
        TransportOptions::Ws(options) => ws::client(options, server),
        TransportOptions::HttpUpgrade(options) => httpupgrade::client(options, server, tls),
        _ => Err(missing(options)),
    }
}

/// The server side that the options describe.
///
/// # Errors
/// As [`client`].
pub(crate) fn server(
    options: &TransportOptions,
    tls: bool,
) -> Result<Side<dyn Server>, BuildError> {
    let _ = tls;
    match options {
        TransportOptions::Http(options) => http::server(options),
        TransportOptions::Grpc(options) => grpc::server(options),
        TransportOptions::Ws(options) => Ok(ws::server(options)),
        TransportOptions::HttpUpgrade(options) => Ok(httpupgrade::server(options)),
        _ => Err(missing(options)),
    }
}

/// What TLS below a server of that transport is told: where the user has configured application protocols, HTTP/2 comes first
/// all the same if the transport needs it, as in the reference.
pub(crate) fn below<'a>(
    transport: Option<&TransportOptions>,
    tls: &'a TlsInOptions,
) -> Cow<'a, TlsInOptions> {
    let needs = matches!(transport, Some(TransportOptions::Http(_) | TransportOptions::Grpc(_)));
    if !needs || tls.alpn.is_empty() || tls.alpn.iter().any(|name| name == "h2") {
        return Cow::Borrowed(tls);
    }
    let mut tls = tls.clone();
    tls.alpn.0.insert(0, "h2".to_owned());
    Cow::Owned(tls)
}

fn missing(options: &TransportOptions) -> BuildError {
    BuildError::NotInBuild(format!("transport `{}`", options.type_name()))
}
