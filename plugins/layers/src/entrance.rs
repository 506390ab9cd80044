//! The way in for clients: TLS, transport.

use crosspoint_kernel::{BuildError, component::BuildCx, flow::BoxStream};
use crosspoint_schema::options::{TlsInOptions, TransportOptions};
use crosspoint_tls::{Server, ServerDefaults};

use crate::transport::{self, Carried};
pub use crate::transport::{AdmitError, Arrived, Guests, Host};

/// The options of an inbound that say how its clients come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntranceOptions<'a> {
    /// TLS, if the protocol has such a field.
    pub tls: Option<&'a TlsInOptions>,
    /// What carries the protocol's stream.
    pub transport: Option<&'a TransportOptions>,
}

impl EntranceOptions<'_> {
    /// Finds what is wrong.
    ///
    /// # Errors
    /// The options are wrong, or ask for what this build lacks.
    pub fn check(&self) -> Result<(), BuildError> {
        Entrance::new(self, false).map(drop)
    }
}

/// The way in for clients.
pub struct Entrance {
    tls: Option<Server>,
    transport: Option<Box<dyn transport::Server>>,
}

impl Entrance {
    /// The way that the options describe. `leavable`: the protocol may leave TLS in the middle of a connection
    /// ([`Stream::seal`](crosspoint_kernel::flow::Stream::seal)), as far as nothing else lies above it.
    ///
    /// # Errors
    /// As [`EntranceOptions::check`].
    pub fn new(options: &EntranceOptions<'_>, leavable: bool) -> Result<Self, BuildError> {
        let tls = options.tls.filter(|tls| tls.enabled);
        let transport = options
            .transport
            .map(|transport| transport::server(transport, tls.is_some()))
            .transpose()?;
        let alpn = transport.as_ref().map_or(&[][..], |side| side.alpn);
        let defaults = ServerDefaults { alpn, leavable: leavable && transport.is_none() };
        let tls = tls.map(|tls| Server::new(&transport::below(options.transport, tls), &defaults));
        let tls = tls.transpose()?;
        Ok(Self { tls, transport: transport.map(|side| side.of) })
    }

    /// Whether clients come through TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Watches the files of certificates as long as the instance lives.
    pub fn watch(&self, cx: &BuildCx) {
        if let Some(tls) = &self.tls {
            tls.watch(cx.cancel.clone(), cx.me.clone());
        }
    }

    /// Lets a client in. The stream of the protocol, or nothing when there were several: then each was given to
    /// `guests`, and the connection has ended.
    ///
    /// # Errors
    /// A handshake failed.
    pub async fn admit(
        &self,
        stream: BoxStream,
        guests: &Guests,
    ) -> Result<Option<Arrived>, AdmitError> {
        let carried = match &self.tls {
            None => Carried { stream, alpn: None },
            Some(tls) => {
                let stream = tls.accept(stream).await?;
                let alpn = stream.alpn().map(Into::into);
                Carried { stream: Box::new(stream), alpn }
            }
        };
        match &self.transport {
            None => Ok(Some(Arrived { stream: carried.stream, alpn: carried.alpn, source: None })),
            Some(transport) => transport.admit(carried, guests).await,
        }
    }
}
