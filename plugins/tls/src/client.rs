//! The client.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use crosspoint_kernel::{
    DialError, flow::BoxStream, resolve::Trail, serve::handshake, snapshot::Plane,
};
use crosspoint_schema::options::TlsOutOptions;
use rustls::{
    ClientConfig,
    client::{EchConfig, EchMode, Resumption},
    pki_types::{DnsName, ServerName},
};
use tokio_rustls::TlsConnector;

use crate::{
    HANDSHAKE_TIMEOUT, HandshakeError, Store, TlsError, TlsStream,
    below::Below,
    ech::Ech,
    fragment::{Fragmenting, Split},
    pem,
    store::Roots,
    suites::{self, Negotiable},
    tickets::Tickets,
    verify::{Trust, Verifier},
};

/// What a client takes where its options say nothing.
#[derive(Clone, Default)]
pub struct ClientDefaults<'a> {
    /// Application protocols to offer.
    pub alpn: &'a [&'a str],
    /// Whom to trust; the store of the process by default.
    pub store: Option<Arc<Store>>,
    /// Where to find the resolver for ECH configurations in the DNS; without it they cannot be had.
    pub plane: Option<Arc<Plane>>,
    /// Whether streams may be left in the middle ([`Stream::seal`](crosspoint_kernel::flow::Stream::seal)).
    pub leavable: bool,
}

/// TLS at the client. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    name: ServerName<'static>,
    recipe: Recipe,
    /// Without ECH.
    config: ArcSwap<Made>,
    split: Option<Split>,
    ech: Option<Ech>,
    leavable: bool,
}

/// What configurations are made of.
pub(crate) struct Recipe {
    negotiable: Negotiable,
    trust: Trust,
    alpn: Vec<Vec<u8>>,
    sni: bool,
}

/// A configuration, and the authorities that were in force when it was made. With others another one is made:
/// sessions that were begun when somebody was trusted must not be resumed when nobody trusts it any more.
pub(crate) struct Made {
    pub(crate) config: Arc<ClientConfig>,
    /// Points nowhere while nobody has asked for the store.
    roots: Weak<Roots>,
}

impl Made {
    pub(crate) fn new(config: ClientConfig, recipe: &Recipe) -> Self {
        Self { config: Arc::new(config), roots: recipe.roots() }
    }

    /// One that was made without looking at the store, which reads it when it is first needed.
    pub(crate) fn unseen(config: ClientConfig) -> Self {
        Self { config: Arc::new(config), roots: Weak::new() }
    }

    /// Whether the authorities are still the same.
    pub(crate) fn is_current(&self, recipe: &Recipe) -> bool {
        self.roots.ptr_eq(&recipe.roots())
    }
}

impl Recipe {
    /// One without application protocols.
    #[cfg(test)]
    pub(crate) fn new(negotiable: Negotiable, trust: Trust) -> Self {
        Self { negotiable, trust, alpn: Vec::new(), sni: true }
    }

    /// The authorities of the store that is in force; nothing where they cannot change.
    fn roots(&self) -> Weak<Roots> {
        match &self.trust {
            Trust::Store(store) => Arc::downgrade(&store.roots()),
            Trust::All | Trust::Own(_) => Weak::new(),
        }
    }

    fn plain(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(self.negotiable.provider.clone())
            .with_protocol_versions(self.negotiable.versions)
            .map_err(TlsError::options)?;
        let verifier = Verifier::new(self.trust.clone(), self.negotiable.provider.clone());
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(self.finish(config))
    }

    /// With ECH, which is for TLS 1.3 alone.
    pub(crate) fn with_ech(&self, ech: EchConfig) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(self.negotiable.provider.clone())
            .with_ech(EchMode::Enable(ech))
            .map_err(TlsError::options)?;
        let verifier = Verifier::new(self.trust.clone(), self.negotiable.provider.clone());
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(self.finish(config))
    }

    fn finish(&self, mut config: ClientConfig) -> ClientConfig {
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sni;
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        config
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for a server at `server` (name or address, as the options of the component have it). It reads
    /// files and touches no network, so that `check` can make one as well. `options.enabled` is the caller's to
    /// look at.
    ///
    /// # Errors
    /// The options are wrong, or ask for what this build lacks.
    pub fn new(
        options: &TlsOutOptions,
        server: &str,
        defaults: &ClientDefaults<'_>,
    ) -> Result<Self, TlsError> {
        if options.reality.as_ref().is_some_and(|reality| reality.enabled) {
            return Err(TlsError::lacks("REALITY"));
        }
        if options.utls.as_ref().is_some_and(|utls| utls.enabled) {
            return Err(TlsError::lacks("uTLS"));
        }
        let name = if options.server_name.is_empty() { server } else { &options.server_name };
        if name.is_empty() && !options.insecure {
            return Err(TlsError::options("missing server_name or insecure=true"));
        }
        let name = server_name(name)?;
        let negotiable =
            suites::negotiable(&options.min_version, &options.max_version, &options.cipher_suites)?;
        let authorities =
            pem::text("read certificate", &options.certificate, &options.certificate_path)?;
        let own = match authorities.filter(|pem| !pem.is_empty()) {
            None => None,
            Some(pem) => {
                let found = pem::certificates(&pem);
                if found.is_empty() {
                    return Err(TlsError::options("failed to parse certificate"));
                }
                Some(Roots::of(&found))
            }
        };
        let trust = match own {
            _ if options.insecure => Trust::All,
            Some(roots) => Trust::Own(Arc::new(roots)),
            None => {
                Trust::Store(defaults.store.clone().unwrap_or_else(|| Store::process().clone()))
            }
        };
        let alpn: Vec<Vec<u8>> = if options.alpn.is_empty() {
            defaults.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
        } else {
            options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
        };
        check_alpn(&alpn)?;
        let ech = match &options.ech {
            Some(ech) if ech.enabled => {
                let tls13 = negotiable.versions.contains(&&rustls::version::TLS13);
                if !tls13 {
                    return Err(TlsError::options("ECH needs TLS 1.3"));
                }
                Some(Ech::new(ech, &name, defaults.plane.clone())?)
            }
            _ => None,
        };
        let recipe = Recipe { negotiable, trust, alpn, sni: !options.disable_sni };
        let config = ArcSwap::from_pointee(Made::unseen(recipe.plain()?));
        if let Some(ech) = &ech {
            ech.check(&recipe)?;
        }
        let split = (options.fragment || options.record_fragment).then(|| Split {
            segments: options.fragment,
            records: options.record_fragment,
            fallback_delay: Some(options.fragment_fallback_delay.get())
                .filter(|delay| !delay.is_zero()),
        });
        let leavable = defaults.leavable;
        Ok(Self(Arc::new(Inner { name, recipe, config, split, ech, leavable })))
    }

    /// The name that the server's certificate must have.
    #[must_use]
    pub fn server_name(&self) -> String {
        self.0.name.to_str().into_owned()
    }

    /// The configuration for users of rustls that do their own handshake (QUIC); to be asked for at each
    /// connection, because it may change.
    ///
    /// # Errors
    /// The ECH configuration cannot be had from the DNS.
    pub async fn rustls_config(&self, trail: &Trail) -> Result<Arc<ClientConfig>, DialError> {
        Ok(self.config(trail).await?)
    }

    async fn config(&self, trail: &Trail) -> Result<Arc<ClientConfig>, HandshakeError> {
        match &self.0.ech {
            None => {
                let made = self.0.config.load();
                if made.is_current(&self.0.recipe) {
                    return Ok(made.config.clone());
                }
                let fresh = self.0.recipe.plain().map_err(HandshakeError::other)?;
                let fresh = Made::new(fresh, &self.0.recipe);
                let config = fresh.config.clone();
                self.0.config.store(Arc::new(fresh));
                Ok(config)
            }
            Some(ech) => ech.config(&self.0.recipe, trail).await,
        }
    }

    /// Whether the options leave TLS 1.3, which is all that QUIC speaks (RFC 9001 §4.2): to be found when a component
    /// is built, not when it dials.
    ///
    /// # Errors
    /// They do not.
    pub fn check_quic(&self) -> Result<(), TlsError> {
        match self.0.recipe.negotiable.versions.contains(&&rustls::version::TLS13) {
            true => Ok(()),
            false => Err(TlsError::options("QUIC needs TLS 1.3")),
        }
    }

    /// The configuration for QUIC, which speaks TLS 1.3 alone.
    ///
    /// # Errors
    /// TLS 1.3 is ruled out by the options, or the ECH configuration cannot be had.
    #[cfg(feature = "quinn")]
    pub async fn quic(&self, trail: &Trail) -> Result<quinn::ClientConfig, DialError> {
        let config = self.config(trail).await?;
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config)
            .map_err(|error| HandshakeError::other(format_args!("QUIC: {error}")))?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }

    /// Does the handshake on a connected stream within [`HANDSHAKE_TIMEOUT`]. `trail` is that of the dial.
    ///
    /// # Errors
    /// The handshake failed; [`DialError::retry`] is set when the server has sent an ECH configuration that the
    /// next attempt will use.
    pub async fn connect(&self, stream: BoxStream, trail: &Trail) -> Result<TlsStream, DialError> {
        self.attempt(stream, trail).await.map_err(|(error, again)| {
            let mut error = DialError::from(error);
            error.retry |= again;
            error
        })
    }

    /// Opens a stream and does the handshake; once more, when the server has sent another ECH configuration.
    ///
    /// # Errors
    /// Those of `open`, and those of [`Self::connect`].
    pub async fn dial<F>(&self, open: impl Fn() -> F, trail: &Trail) -> Result<TlsStream, DialError>
    where
        F: Future<Output = Result<BoxStream, DialError>>,
    {
        match self.attempt(open().await?, trail).await {
            Ok(stream) => Ok(stream),
            Err((_, true)) => self.connect(open().await?, trail).await,
            Err((error, false)) => Err(error.into()),
        }
    }

    /// The error, and whether another attempt has a chance.
    async fn attempt(
        &self,
        stream: BoxStream,
        trail: &Trail,
    ) -> Result<TlsStream, (HandshakeError, bool)> {
        let inner = &*self.0;
        let work = async {
            let config = self.config(trail).await?;
            let stream: BoxStream = match inner.split {
                Some(split) => Box::new(Fragmenting::new(stream, split)),
                None => stream,
            };
            let stream = Below::new(stream, inner.leavable);
            let stream = TlsConnector::from(config).connect(inner.name.clone(), stream).await?;
            Ok(TlsStream::new(stream))
        };
        // Boxed: a handshake is large, what it leaves is not.
        handshake(HANDSHAKE_TIMEOUT, Box::pin(work)).await.map_err(|error: HandshakeError| {
            let again = match (&inner.ech, error.tls()) {
                (Some(ech), Some(tls)) => ech.rejected(&inner.recipe, tls),
                _ => false,
            };
            (error, again)
        })
    }
}

/// The name as rustls takes it. Names of the DNS lose their trailing dot; addresses may have brackets and a zone.
fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let address = bare.split_once('%').map_or(bare, |(address, _)| address);
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    if text.is_empty() {
        // Nobody is asked for and anybody will do: an address is not sent.
        return Ok(ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    DnsName::try_from(name.to_owned())
        .map(ServerName::DnsName)
        .map_err(|_| TlsError::options(format_args!("invalid server_name: {text:?}")))
}

/// Names of application protocols have 1 to 255 bytes (RFC 7301 §3.1).
pub(crate) fn check_alpn(alpn: &[Vec<u8>]) -> Result<(), TlsError> {
    match alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
        None => Ok(()),
        Some(name) => {
            let name = String::from_utf8_lossy(name);
            Err(TlsError::options(format_args!("invalid ALPN protocol: {name:?}")))
        }
    }
}

/// A wait that options leave open: the reference's.
pub(crate) const FALLBACK_DELAY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let shown = |text| server_name(text).map(|name| name.to_str().into_owned());
        assert_eq!(shown("a.test.").unwrap(), "a.test");
        assert_eq!(shown("a_b.test").unwrap(), "a_b.test");
        assert_eq!(shown("[::1]").unwrap(), "::1");
        assert_eq!(shown("fe80::1%eth0").unwrap(), "fe80::1");
        assert_eq!(shown("").unwrap(), "0.0.0.0");
        assert!(shown("a b").is_err());
    }
}
