//! HTTP/1.1: one request at a time on a connection, so a few connections.

use std::sync::Arc;

use bytes::Bytes;
use crosspoint_kernel::resolve::{ExchangeError, Trail};
use crosspoint_tls::TlsStream;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Duration, timeout},
};

use super::read;
use crate::client::{Failed, Secure};

/// Connections to one server.
const CONNECTIONS: usize = 16;

/// Time for dial and handshakes.
const OPENING: Duration = Duration::from_secs(10);

type Sender = SendRequest<Full<Bytes>>;

/// The connections to a server that speaks no HTTP/2.
pub(super) struct Http1 {
    secure: Arc<Secure>,
    idle: Mutex<Vec<Sender>>,
    turns: Semaphore,
}

impl Http1 {
    /// Starts with a connection that stands already.
    pub(super) async fn new(secure: Arc<Secure>, stream: TlsStream) -> Result<Self, ExchangeError> {
        let first = start(stream).await.map_err(|failed| failed.error)?;
        Ok(Self { secure, idle: Mutex::new(vec![first]), turns: Semaphore::new(CONNECTIONS) })
    }

    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        trail: &Trail,
    ) -> Result<Vec<u8>, Failed> {
        let _turn = self.turns.acquire().await.map_err(Failed::again)?;
        loop {
            let idle = self.idle.lock().pop();
            let (mut sender, used) = match idle {
                Some(sender) => (sender, true),
                None => (self.open(trail).await?, false),
            };
            // The server may have closed it meanwhile; then there may be another one.
            match sender.ready().await {
                Ok(()) => {}
                Err(_) if used => continue,
                Err(error) => return Err(Failed::again(error)),
            }
            let response = match sender.send_request(request.clone()).await {
                Ok(response) => response,
                Err(_) if used => continue,
                Err(error) => return Err(Failed::again(error)),
            };
            let answer = read(response).await?;
            if !sender.is_closed() {
                self.idle.lock().push(sender);
            }
            return Ok(answer);
        }
    }

    async fn open(&self, trail: &Trail) -> Result<Sender, Failed> {
        let failed = |error: ExchangeError| Failed { error, again: false };
        match timeout(OPENING, self.secure.connect(trail)).await {
            Ok(stream) => start(stream.map_err(|error| failed(error.into()))?).await,
            Err(_) => Err(Failed::finally("no connection within the time allowed")),
        }
    }
}

async fn start(stream: TlsStream) -> Result<Sender, Failed> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(128 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failed::again)?;
    // Ends when the sender is dropped or the server closes.
    tokio::spawn(connection);
    Ok(sender)
}
