//! TLS on the way to a server.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, DialError, flow::BoxStream, resolve::Trail,
};
use crosspoint_schema::{options, options::TlsOutOptions};
use crosspoint_tls::{Client, ClientDefaults, TlsStream};

use super::{RemoteOptions, Route};

options! {
    /// A DNS server that is asked through TLS.
    pub struct RemoteTlsOptions ("option.RemoteTLSDNSServerOptions") {
        /// How to dial, and the server.
        pub remote: RemoteOptions = flatten,
        /// TLS; always in use.
        pub tls: Option<TlsOutOptions> = "tls",
    }
}

impl RemoteTlsOptions {
    /// The client that they ask for.
    ///
    /// # Errors
    /// Wrong options, or what this build lacks.
    pub(crate) fn client(&self, alpn: &[&str], cx: Option<&BuildCx>) -> Result<Client, BuildError> {
        let defaults = ClientDefaults {
            alpn,
            plane: cx.map(|cx| cx.plane.clone()),
            ..ClientDefaults::default()
        };
        let none = TlsOutOptions::default();
        let tls = self.tls.as_ref().unwrap_or(&none);
        Ok(Client::new(tls, &self.remote.address.server, &defaults)?)
    }

    /// The name that the client asks for: what `:authority` is made of.
    #[cfg(any(feature = "https", feature = "h3"))]
    pub(crate) fn server_name(&self) -> &str {
        match &self.tls {
            Some(tls) if !tls.server_name.is_empty() => &tls.server_name,
            _ => &self.remote.address.server,
        }
    }
}

/// A route with TLS at its end.
pub(crate) struct Secure {
    pub(crate) route: Arc<Route>,
    pub(crate) client: Client,
}

impl Secure {
    /// Dials and does the handshake.
    #[cfg(any(feature = "tls", feature = "https"))]
    pub(crate) async fn connect(&self, trail: &Trail) -> Result<TlsStream, DialError> {
        self.client.dial(|| self.route.connect(trail), trail).await
    }
}

#[cfg(feature = "tls")]
impl super::streams::Open for Secure {
    fn route(&self) -> &Route {
        &self.route
    }

    fn open<'a>(&'a self, trail: &'a Trail) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move { Ok(Box::new(self.connect(trail).await?) as BoxStream) })
    }
}
