//! The server.

use std::{fmt, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use crosspoint_kernel::{component::Incarnation, flow::BoxStream, serve::handshake};
use crosspoint_schema::options::TlsInOptions;
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    HANDSHAKE_TIMEOUT, HandshakeError, TlsError, TlsStream,
    below::Below,
    client::check_alpn,
    keys::{Certificates, certified},
    mint::Mint,
    pem,
    suites::{self, Negotiable},
    watch::Watched,
};

/// What a server takes where its options say nothing.
#[derive(Clone, Debug, Default)]
pub struct ServerDefaults<'a> {
    /// Application protocols to accept.
    pub alpn: &'a [&'a str],
    /// Whether streams may be left in the middle ([`Stream::seal`](crosspoint_kernel::flow::Stream::seal)).
    pub leavable: bool,
}

/// TLS at the server. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    config: Arc<ServerConfig>,
    /// Without application protocols.
    plain: Arc<ServerConfig>,
    negotiable: Negotiable,
    certificates: Arc<Certificates>,
    /// Where the certificate and the key come from, as far as that is files.
    certificate: Part,
    key: Part,
    watched: Watched,
    leavable: bool,
}

/// A text that is given or in a file.
struct Part {
    what: &'static str,
    given: Vec<u8>,
    path: Option<PathBuf>,
}

impl Part {
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        match &self.path {
            Some(path) => pem::file(self.what, path),
            None => Ok(self.given.clone()),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("alpn", &self.0.config.alpn_protocols)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server. It reads files and touches no network, so that `check` can make one as well. `options.enabled`
    /// is the caller's to look at.
    ///
    /// # Errors
    /// The options are wrong, or ask for what this build lacks.
    pub fn new(options: &TlsInOptions, defaults: &ServerDefaults<'_>) -> Result<Self, TlsError> {
        if options.reality.as_ref().is_some_and(|reality| reality.enabled) {
            return Err(TlsError::lacks("REALITY"));
        }
        if options.acme.as_ref().is_some_and(|acme| !acme.domain.is_empty()) {
            return Err(TlsError::lacks("ACME"));
        }
        let negotiable =
            suites::negotiable(&options.min_version, &options.max_version, &options.cipher_suites)?;
        let alpn: Vec<Vec<u8>> = if options.alpn.is_empty() {
            defaults.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
        } else {
            options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
        };
        check_alpn(&alpn)?;
        let path = |lines: bool, path: &str| (!lines && !path.is_empty()).then(|| path.into());
        let certificate_path: Option<PathBuf> =
            path(!options.certificate.is_empty(), &options.certificate_path);
        let key_path: Option<PathBuf> = path(!options.key.is_empty(), &options.key_path);
        let watched = Watched::new(certificate_path.clone().into_iter().chain(key_path.clone()));
        let certificate =
            pem::text("read certificate", &options.certificate, &options.certificate_path)?;
        let lines: Vec<&str> = options.key.iter().map(|line| line.expose()).collect();
        let key = pem::text("read key", &lines, &options.key_path)?;
        let parts = (
            Part {
                what: "reload certificate",
                given: certificate.clone().unwrap_or_default(),
                path: certificate_path,
            },
            Part { what: "reload key", given: key.clone().unwrap_or_default(), path: key_path },
        );
        let certificates = match (certificate, key) {
            (None, None) if options.insecure => {
                Certificates::Minted(Box::new(Mint::new(negotiable.provider.clone())))
            }
            (None, _) => return Err(TlsError::options("missing certificate")),
            (Some(_), None) => return Err(TlsError::options("missing key")),
            (Some(certificate), Some(key)) => {
                let certified = certified(&certificate, &key, &negotiable.provider)?;
                Certificates::Fixed(ArcSwap::from_pointee(certified))
            }
        };
        if let Some(ech) = options.ech.as_ref().filter(|ech| ech.enabled) {
            if ech.key.is_empty() && ech.key_path.is_empty() {
                return Err(TlsError::options("missing ECH keys"));
            }
            return Err(TlsError::lacks("Encrypted Client Hello at the server"));
        }
        let certificates = Arc::new(certificates);
        let config = |alpn: Vec<Vec<u8>>| {
            let mut config = ServerConfig::builder_with_provider(negotiable.provider.clone())
                .with_protocol_versions(negotiable.versions)
                .map_err(TlsError::options)?
                .with_no_client_auth()
                .with_cert_resolver(certificates.clone());
            config.alpn_protocols = alpn;
            config.ticketer =
                rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::options)?;
            // Tickets carry all that is needed: nothing is kept for each client.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            // One for each connection, as Go's servers do: each is good for one more.
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        };
        let (config, plain) = (config(alpn)?, config(Vec::new())?);
        let (certificate, key) = parts;
        Ok(Self(Arc::new(Inner {
            config,
            plain,
            negotiable,
            certificates,
            certificate,
            key,
            watched,
            leavable: defaults.leavable,
        })))
    }

    /// Watches the files of certificate and key until cancelled, and shows new ones to later clients. `who` is
    /// for the log.
    pub fn watch(&self, cancel: CancellationToken, who: Arc<Incarnation>) {
        let watched = self.0.watched.clone();
        if watched.is_empty() {
            return;
        }
        let server = Arc::downgrade(&self.0);
        let changed = move || {
            let Some(server) = server.upgrade() else { return false };
            match server.reload() {
                Ok(()) => info!(component = %who, "reloaded TLS certificate"),
                Err(error) => error!(component = %who, "reload certificate: {error}"),
            }
            true
        };
        tokio::spawn(watched.watch(cancel, changed));
    }

    /// Does the handshake with a client within [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Errors
    /// It failed.
    pub async fn accept(&self, stream: BoxStream) -> Result<TlsStream, HandshakeError> {
        let inner = &*self.0;
        let work = async {
            let stream = Below::new(stream, inner.leavable);
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let config = inner.config_for(&start.client_hello()).clone();
            Ok(TlsStream::new(start.into_stream(config).await?))
        };
        // Boxed: a handshake is large, what it leaves is not.
        handshake(HANDSHAKE_TIMEOUT, Box::pin(work)).await
    }

    /// The configuration for users of rustls that do their own handshake (QUIC).
    #[must_use]
    pub fn rustls_config(&self) -> Arc<ServerConfig> {
        self.0.config.clone()
    }

    /// The configuration for QUIC, which speaks TLS 1.3 alone.
    ///
    /// # Errors
    /// TLS 1.3 is ruled out by the options.
    #[cfg(feature = "quinn")]
    pub fn quic(&self) -> Result<quinn::ServerConfig, TlsError> {
        let config = quinn::crypto::rustls::QuicServerConfig::try_from(self.0.config.clone())
            .map_err(|error| TlsError::options(format_args!("QUIC: {error}")))?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(config)))
    }
}

impl Inner {
    /// A server for HTTP/2 alone also serves clients that only know HTTP/1.1, without agreeing on a protocol, as
    /// Go programs do; any other difference ends the handshake.
    fn config_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let own = &self.config.alpn_protocols;
        let Some(offered) = hello.alpn().map(|names| names.collect::<Vec<_>>()) else {
            return &self.config;
        };
        let agreed = own.iter().any(|own| offered.contains(&own.as_slice()));
        let old = own.iter().any(|own| own == b"h2") && offered.contains(&&b"http/1.1"[..]);
        if old && !agreed { &self.plain } else { &self.config }
    }

    fn reload(&self) -> Result<(), TlsError> {
        let Certificates::Fixed(current) = &*self.certificates else { return Ok(()) };
        let (certificate, key) = (self.certificate.read()?, self.key.read()?);
        let fresh = certified(&certificate, &key, &self.negotiable.provider)?;
        current.store(Arc::new(fresh));
        Ok(())
    }
}
