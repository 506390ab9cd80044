//! Links between the servers of a region: each is a client of all others, learns who is there, and hands them the
//! packets for their clients (tailscale `derp/derphttp/mesh_client.go`).

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use crosspoint_kernel::{BoxFuture, error::DialError, flow::BoxStream};
use crosspoint_layers::input::Input;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    actor::Message,
    client::{self, Client, ClientError},
    frame::{FromClient, FromServer},
    hub::Hub,
    info::{ClientInfo, VERSION},
    key::Key,
    mailbox::Mailbox,
};

/// Wait before the first attempt after one that failed,
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// and the longest.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A link that has lasted so long was good: the next wait is short again.
const GOOD: Duration = Duration::from_secs(60);

/// How long dial, TLS and upgrade may take.
const CONNECT: Duration = Duration::from_secs(20);

/// Clients that one server may say it has.
const CLIENTS: usize = 1 << 18;

/// Why a link is down.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no answer within {CONNECT:?}")]
    TimedOut,
    #[error("the server says that it has more than {CLIENTS} clients")]
    Many,
}

/// Opens a connection to a server, TLS included.
pub type Open = Box<dyn Fn() -> BoxFuture<'static, Result<BoxStream, DialError>> + Send + Sync>;

/// The other end of a link.
pub struct Link {
    /// Its name, as the request has it, with the port where it is a special one.
    pub host: String,
    /// The way there.
    pub open: Open,
}

/// What is told when a link ends, in whatever way.
struct Up {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
}

impl Drop for Up {
    fn drop(&mut self) {
        self.mailbox.close();
        self.hub.tell(Message::LinkDown(self.mailbox.clone()));
    }
}

impl Link {
    /// Keeps the link up until dropped. Ends when it turns out that the other end is this server itself.
    pub async fn run(self, hub: Arc<Hub>, component: impl fmt::Display) {
        let mut backoff = BACKOFF_MIN;
        let host = &self.host;
        loop {
            let started = Instant::now();
            match self.once(&hub, &component).await {
                Ok(()) => {
                    info!(%component, "mesh({host}): that is this server itself");
                    return;
                }
                Err(error) => warn!(%component, "mesh({host}): {error}"),
            }
            if started.elapsed() >= GOOD {
                backoff = BACKOFF_MIN;
            }
            // Between half of it and all: servers of a region should not come back in step.
            let spread = u64::from(std::process::id()) ^ started.elapsed().as_nanos() as u64;
            let half = backoff / 2;
            tokio::time::sleep(half + half.mul_f64((spread % 1000) as f64 / 1000.0)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect(&self, hub: &Hub) -> Result<Client, LinkError> {
        let mut stream = (self.open)().await?;
        let mut input = Input::default();
        client::upgrade(&mut stream, &mut input, &self.host).await?;
        let info = ClientInfo {
            mesh_key: hub.settings().mesh_key.clone(),
            version: VERSION,
            can_ack_pings: true,
            prober: false,
        };
        let client = Client::new(stream, input, hub.private(), &info, None).await;
        Ok(client.map_err(ClientError::from)?)
    }

    /// Ends well at this server itself.
    async fn once(&self, hub: &Arc<Hub>, component: &impl fmt::Display) -> Result<(), LinkError> {
        let connect = timeout(CONNECT, Box::pin(self.connect(hub)));
        let mut client = connect.await.map_err(|_| LinkError::TimedOut)??;
        if client.server() == hub.public() {
            return Ok(());
        }
        let host = &self.host;
        let mailbox = client.mailbox().clone();
        let _up = Up { hub: hub.clone(), mailbox: mailbox.clone() };
        client.say(FromClient::Watch);
        info!(%component, "mesh({host}): connected to {:?}", client.server());
        let mut clients: HashSet<Key> = HashSet::new();
        loop {
            match client.next().await? {
                FromServer::PeerPresent { key, .. } => {
                    if clients.insert(key) {
                        debug!(%component, "mesh({host}): {key:?} is there");
                        hub.via(key, &mailbox);
                    }
                    if clients.len() > CLIENTS {
                        return Err(LinkError::Many);
                    }
                }
                FromServer::PeerGone(key, why) if clients.remove(&key) => {
                    debug!(%component, "mesh({host}): {key:?} is gone: {why:?}");
                    hub.lost(key, &mailbox);
                }
                FromServer::Health(text) if !text.is_empty() => {
                    let text = String::from_utf8_lossy(text);
                    warn!(%component, "mesh({host}): {}", text.escape_debug());
                }
                _ => {}
            }
        }
    }
}
