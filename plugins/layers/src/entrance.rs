//! The way in for clients: TLS, transport.

use std::future::Future;

use crosspoint_kernel::{BuildError, component::BuildCx, flow::BoxStream};
use crosspoint_schema::options::{TlsInOptions, TransportOptions};
use crosspoint_tls::{HandshakeError, Server, ServerDefaults};

/// The options of an inbound that say how its clients come in.
#[derive(Clone, Copy, Debug)]
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
        Entrance::new(self).map(drop)
    }
}

/// A stream of the protocol, after everything that carries it.
pub struct Arrived {
    /// The stream.
    pub stream: BoxStream,
    /// The application protocol that TLS agreed on.
    pub alpn: Option<Box<[u8]>>,
}

/// The way in for clients.
pub struct Entrance {
    tls: Option<Server>,
}

impl Entrance {
    /// The way that the options describe.
    ///
    /// # Errors
    /// As [`EntranceOptions::check`].
    pub fn new(options: &EntranceOptions<'_>) -> Result<Self, BuildError> {
        if options.transport.is_some() {
            return Err(BuildError::NotInBuild("option `transport`".to_owned()));
        }
        let tls = options.tls.filter(|tls| tls.enabled);
        let tls = tls.map(|tls| Server::new(tls, &ServerDefaults::default())).transpose()?;
        Ok(Self { tls })
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

    /// Lets a client in: calls `each` with every stream of the protocol that it opens, and returns when all have ended.
    ///
    /// # Errors
    /// A handshake failed.
    pub async fn admit<F, W>(&self, stream: BoxStream, each: F) -> Result<(), HandshakeError>
    where
        F: Fn(Arrived) -> W,
        W: Future<Output = ()>,
    {
        let arrived = match &self.tls {
            None => Arrived { stream, alpn: None },
            Some(tls) => {
                let stream = tls.accept(stream).await?;
                let alpn = stream.alpn().map(Into::into);
                Arrived { stream: Box::new(stream), alpn }
            }
        };
        each(arrived).await;
        Ok(())
    }
}
