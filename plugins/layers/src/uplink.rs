//! The way to a server: dial, TLS, transport.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildError, DialError,
    addr::Target,
    component::{BuildCx, Dial},
    flow::{BoxPacketIo, BoxStream},
    net::dial::{Dialer, Setup},
    snapshot::Plane,
};
use crosspoint_schema::options::{DialOptions, ServerOptions, TlsOutOptions, TransportOptions};
use crosspoint_tls::{Client, ClientDefaults};

use crate::{
    spec::{self, to_proxy},
    transport::{self, Carried, Lower, Side},
};

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
        Layers::new(self, None, false).map(drop)
    }
}

/// What lies between the dialled connection and the protocol.
struct Layers {
    tls: Option<Client>,
    transport: Option<Box<dyn transport::Client>>,
}

impl Layers {
    fn new(
        options: &UplinkOptions<'_>,
        plane: Option<Arc<Plane>>,
        leavable: bool,
    ) -> Result<Self, BuildError> {
        let tls = options.tls.filter(|tls| tls.enabled);
        let transport = options
            .transport
            .map(|transport| transport::client(transport, &spec::server(options.server), tls))
            .transpose()?;
        let alpn = transport.as_ref().map_or(&[][..], |side: &Side<_>| side.alpn);
        let leavable = leavable && transport.is_none();
        let tls = tls
            .map(|tls| {
                let defaults =
                    ClientDefaults { alpn, plane, leavable, ..ClientDefaults::default() };
                Client::new(tls, &options.server.server, &defaults)
            })
            .transpose()?;
        Ok(Self { tls, transport: transport.map(|side| side.of) })
    }
}

/// The way to a server.
pub struct Uplink {
    dialer: Dialer,
    server: Target,
    layers: Layers,
}

impl Uplink {
    /// The way that the options describe.
    ///
    /// # Errors
    /// As [`UplinkOptions::check`], and those of the dialer.
    pub fn new(options: &UplinkOptions<'_>, cx: &BuildCx) -> Result<Self, BuildError> {
        Self::build(options, cx, false)
    }

    /// The same for a protocol that may leave TLS in the middle of a connection
    /// ([`Stream::seal`](crosspoint_kernel::flow::Stream::seal)), as far as nothing else lies above it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn leavable(options: &UplinkOptions<'_>, cx: &BuildCx) -> Result<Self, BuildError> {
        Self::build(options, cx, true)
    }

    fn build(
        options: &UplinkOptions<'_>,
        cx: &BuildCx,
        leavable: bool,
    ) -> Result<Self, BuildError> {
        let layers = Layers::new(options, Some(cx.plane.clone()), leavable)?;
        let setup = Setup { server: Some(&options.server.server), ..Setup::default() };
        Ok(Self {
            dialer: Dialer::with(options.dial, cx, setup)?,
            server: spec::server(options.server),
            layers,
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
        let below = Below { uplink: self, dial };
        match &self.layers.transport {
            None => Ok(below.dial().await?.stream),
            Some(transport) => transport.open(&below).await,
        }
    }

    /// Opens an association with the server alone.
    ///
    /// # Errors
    /// The dial failed.
    pub async fn associate(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        self.dialer.associate_connected(dial.to(&self.server)).await.map_err(to_proxy)
    }
}

/// What lies below the transport, on behalf of one dial.
struct Below<'a> {
    uplink: &'a Uplink,
    dial: Dial<'a>,
}

impl Below<'_> {
    async fn dial(&self) -> Result<Carried, DialError> {
        let Uplink { dialer, server, layers } = self.uplink;
        let open = || async { dialer.connect(self.dial.to(server)).await.map_err(to_proxy) };
        let Some(tls) = &layers.tls else {
            return Ok(Carried { stream: open().await?, alpn: None });
        };
        let stream = tls.dial(open, self.dial.trail).await;
        let stream = stream.map_err(|error| error.context(format_args!("server {server}")))?;
        let alpn = stream.alpn().map(Into::into);
        Ok(Carried { stream: Box::new(stream), alpn })
    }
}

impl Lower for Below<'_> {
    fn open(&self) -> BoxFuture<'_, Result<Carried, DialError>> {
        Box::pin(self.dial())
    }
}
