//! The way to a server: dial, TLS, transport.

use std::sync::Arc;

use crosspoint_kernel::{
    BuildError, DialError,
    addr::Target,
    component::{BuildCx, Dial},
    flow::{BoxPacketIo, BoxStream},
    net::dial::{Dialer, Setup},
    snapshot::Plane,
};
use crosspoint_schema::options::{DialOptions, ServerOptions, TlsOutOptions, TransportOptions};
use crosspoint_tls::{Client, ClientDefaults};

use crate::spec::{self, to_proxy};

/// The options of an outbound that say how to reach its server.
#[derive(Clone, Copy, Debug)]
pub struct UplinkOptions<'a> {
    /// How to dial.
    pub dial: &'a DialOptions,
    /// The server.
    pub server: &'a ServerOptions,
    /// TLS, if the protocol has such a field.
    pub tls: Option<&'a TlsOutOptions>,
    /// What carries the protocol's stream.
    pub transport: Option<&'a TransportOptions>,
}

impl UplinkOptions<'_> {
    /// Finds what is wrong without touching the system.
    ///
    /// # Errors
    /// The options are wrong, or ask for what this build lacks.
    pub fn check(&self) -> Result<(), BuildError> {
        if self.transport.is_some() {
            return Err(BuildError::NotInBuild("option `transport`".to_owned()));
        }
        self.tls(None).map(drop)
    }

    fn tls(&self, plane: Option<Arc<Plane>>) -> Result<Option<Client>, BuildError> {
        let Some(tls) = self.tls.filter(|tls| tls.enabled) else { return Ok(None) };
        let defaults = ClientDefaults { plane, ..ClientDefaults::default() };
        Ok(Some(Client::new(tls, &self.server.server, &defaults)?))
    }
}

/// The way to a server.
pub struct Uplink {
    dialer: Dialer,
    server: Target,
    tls: Option<Client>,
}

impl Uplink {
    /// The way that the options describe.
    ///
    /// # Errors
    /// As [`UplinkOptions::check`], and those of the dialer.
    pub fn new(options: &UplinkOptions<'_>, cx: &BuildCx) -> Result<Self, BuildError> {
        options.check()?;
        let setup = Setup { server: Some(&options.server.server), ..Setup::default() };
        Ok(Self {
            dialer: Dialer::with(options.dial, cx, setup)?,
            server: spec::server(options.server),
            tls: options.tls(Some(cx.plane.clone()))?,
        })
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Target {
        &self.server
    }

    /// Opens a stream to the server on behalf of `dial`.
    ///
    /// # Errors
    /// The dial or a handshake failed; the side is the proxy's, not the target's.
    pub async fn open(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let open = || async { self.dialer.connect(dial.to(&self.server)).await.map_err(to_proxy) };
        let Some(tls) = &self.tls else { return open().await };
        let stream = tls.dial(open, dial.trail).await;
        let stream = stream.map_err(|error| error.context(format_args!("server {}", self.server)));
        Ok(Box::new(stream?))
    }

    /// Opens an association with the server alone.
    ///
    /// # Errors
    /// The dial failed.
    pub async fn associate(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        self.dialer.associate_connected(dial.to(&self.server)).await.map_err(to_proxy)
    }
}
