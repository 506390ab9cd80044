//! A DERP server: its key, what it is set to, and its connections.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use crosspoint_kernel::{flow::BoxStream, ledger::Registered};
use crosspoint_layers::input::Input;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    actor::{Actor, Message},
    connection::{Connection, End},
    frame::flags,
    handshake::Newcomer,
    key::{Key, MeshKey, PrivateKey},
    limit::Rate,
    mailbox::{Limit, Mailbox},
    table::{Known, Peer, Table},
};

/// What may change while a server runs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The key of the region.
    pub mesh_key: Option<MeshKey>,
    /// What each client may send.
    pub rate: Option<Rate>,
}

/// A server. Connections hold it, so that it lives as long as the last of them, whatever becomes of the component that
/// made it.
pub struct Hub {
    private: PrivateKey,
    settings: ArcSwap<Settings>,
    table: Arc<Table>,
    actor: mpsc::UnboundedSender<Message>,
    dead: CancellationToken,
}

/// What a client is besides what it has proved.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Its address.
    pub addr: SocketAddr,
    /// It says that it would rather be at another server of the region.
    pub not_ideal: bool,
}

/// Takes a connection out again when its task ends, in whatever way.
pub(crate) struct Membership {
    pub(crate) hub: Arc<Hub>,
    pub(crate) peer: Arc<Peer>,
    /// Whom it has sent to.
    pub(crate) sent_to: Known,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.peer.mailbox.close();
        let (peer, sent_to) = (self.peer.clone(), std::mem::take(&mut self.sent_to));
        self.hub.tell(Message::Leave { peer, sent_to });
    }
}

impl Hub {
    /// A server without clients, and the task of its actor.
    #[must_use]
    pub fn new(private: PrivateKey, settings: Settings) -> Arc<Self> {
        let (actor, messages) = mpsc::unbounded_channel();
        let (table, dead) = (Arc::<Table>::default(), CancellationToken::new());
        let state = Actor::new(private.public(), table.clone(), dead.clone());
        tokio::spawn(state.run(messages));
        let settings = ArcSwap::from_pointee(settings);
        Arc::new(Self { private, settings, table, actor, dead })
    }

    /// Its private key.
    #[must_use]
    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Its public key.
    #[must_use]
    pub fn public(&self) -> Key {
        self.private.public()
    }

    /// Who can be reached.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What it is set to.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Sets it anew; clients stay. Other servers must prove themselves again if the key of the region is another one.
    pub fn configure(&self, settings: Settings) {
        let before = self.settings.swap(Arc::new(settings.clone()));
        let same = match (&before.mesh_key, &settings.mesh_key) {
            (None, None) => true,
            (Some(one), Some(two)) => one.matches(two),
            _ => false,
        };
        if !same {
            self.tell(Message::Distrust);
        }
    }

    /// Ends every connection.
    pub fn end(&self) {
        self.tell(Message::End);
    }

    /// Ready when the actor has failed: every connection ends, and a new server is needed.
    pub async fn failed(&self) {
        self.dead.cancelled().await;
    }

    /// Whether the actor has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.dead.is_cancelled()
    }

    pub(crate) fn tell(&self, message: Message) {
        // Without an actor there is nobody to be told.
        let _ = self.actor.send(message);
    }

    /// Whether a client has the key of the region.
    #[must_use]
    pub fn trusts(&self, newcomer: &Newcomer) -> bool {
        match (&self.settings.load().mesh_key, &newcomer.info.mesh_key) {
            (Some(own), Some(shown)) => own.matches(shown),
            _ => false,
        }
    }

    /// Serves a client that has proved who it is and may come in, until its connection ends. `input` holds what was
    /// received behind the handshake.
    pub async fn serve(
        self: Arc<Self>,
        stream: BoxStream,
        input: Input,
        newcomer: Newcomer,
        origin: Origin,
        entry: Option<Registered>,
    ) -> End {
        let trusted = self.trusts(&newcomer);
        let marks = [
            (newcomer.info.prober, flags::PROBER),
            (trusted, flags::MESH_PEER),
            (origin.not_ideal, flags::NOT_IDEAL),
        ];
        let marks = marks.iter().filter(|(on, _)| *on).fold(0, |all, (_, mark)| all | mark);
        let peer = Arc::new(Peer::new(newcomer.key, origin.addr, trusted, marks));
        let (done, joined) = oneshot::channel();
        self.tell(Message::Join { peer: peer.clone(), done });
        let member =
            Membership { hub: self.clone(), peer: peer.clone(), sent_to: Known::default() };
        if joined.await.is_err() {
            return End::Closed;
        }
        let rate = self.settings.load().rate.filter(|_| !trusted);
        let welcome = newcomer.welcome(rate);
        peer.mailbox.control(Limit::Complete, |out| out.extend(&welcome));
        drop(welcome);
        Connection::new(stream, input, member, entry).await
    }

    /// Another server of the region has that client.
    pub(crate) fn via(&self, key: Key, link: &Arc<Mailbox>) {
        self.tell(Message::Via { key, link: link.clone() });
    }

    /// It has it no longer.
    pub(crate) fn lost(&self, key: Key, link: &Arc<Mailbox>) {
        self.tell(Message::Lost { key, link: link.clone() });
    }
}
