//! What the inbounds of all protocols over streams have in common: the listener, the way in, the time limit of the
//! handshake, sessions, log lines, users that go, and connections that other inbounds hand over.

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use crosspoint_kernel::{
    BoxFuture, BuildError,
    addr::Target,
    component::{BuildCx, Conn, Fault, Inject},
    flow::{BoxStream, Flow},
    ledger::Cut,
    net::listen::{Bound, SessionDefaults},
    serve::{self, Accepted, HANDSHAKE_TIMEOUT, handshake},
    session::{Network, Session},
};
use crosspoint_schema::options::{ListenOptions, MultiplexInOptions};
use tokio::{net::TcpListener, sync::OwnedSemaphorePermit};
use tracing::{debug, error};

use crate::{
    branches::{Branches, carry},
    entrance::{Arrived, Entrance, EntranceOptions, Guests, Host},
    roster::{Admitted, Roster},
    unpack::Unpack,
};

/// The server side of a protocol over streams.
pub trait Greeter: Send + Sync + 'static {
    /// Whether the protocol may leave TLS in the middle of a connection.
    const LEAVES_TLS: bool = false;

    /// Who may come in.
    type Users: Roster;

    /// Reads who a client is, one of `users`, and what it wants. Runs under the time limit of handshakes.
    fn greet(
        &self,
        users: &Self::Users,
        id: u64,
        arrived: Arrived,
    ) -> impl Future<Output = Result<Wanted, Refused>> + Send;
}

/// What a client wants.
pub enum Wanted {
    /// One connection.
    Flow {
        /// Where to.
        target: Target,
        /// Who, if the protocol knows users.
        user: Option<Arc<str>>,
        /// Its bytes or datagrams.
        flow: Flow,
    },
    /// A session that carries many.
    Session {
        /// The destination that names the kind of session, for the log and the ledger.
        target: Target,
        /// Who, if the protocol knows users.
        user: Option<Arc<str>>,
        /// Hands each of them out, and returns when the session has ended.
        run: Run,
    },
}

/// The work of a session that carries connections.
pub type Run = Box<dyn FnOnce(Branches) -> BoxFuture<'static, io::Result<()>> + Send>;

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection broke, or was silent for too long.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client is a stranger, or does not speak the protocol.
    #[error("{0}")]
    Client(Box<dyn std::error::Error + Send + Sync>),
}

impl Refused {
    /// A client that does something wrong.
    pub fn client(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Client(why.into())
    }
}

/// The options of such an inbound that are the same for all.
#[derive(Clone, Copy)]
pub struct InboundOptions<'a> {
    /// Listen fields.
    pub listen: &'a ListenOptions,
    /// TLS and transport.
    pub entrance: EntranceOptions<'a>,
    /// Multiplexing.
    pub multiplex: Option<&'a MultiplexInOptions>,
    /// Whether clients may send datagrams over streams by asking for the destination of that protocol.
    pub udp_over_tcp: bool,
}

/// A running inbound of a protocol over streams.
pub struct Inbound<G: Greeter> {
    cx: BuildCx,
    entrance: Entrance,
    unpack: Unpack,
    defaults: SessionDefaults,
    users: ArcSwap<G::Users>,
    greeter: G,
}

impl<G: Greeter> Inbound<G> {
    /// An inbound that does not listen yet.
    ///
    /// # Errors
    /// The options are wrong, or ask for what this build lacks.
    pub fn new(
        options: &InboundOptions<'_>,
        greeter: G,
        users: G::Users,
        cx: &BuildCx,
    ) -> Result<Arc<Self>, BuildError> {
        Ok(Arc::new(Self {
            entrance: Entrance::new(&options.entrance, G::LEAVES_TLS)?,
            unpack: Unpack::new(cx, options.multiplex, options.udp_over_tcp)?,
            defaults: SessionDefaults::new(options.listen),
            users: ArcSwap::from_pointee(users),
            greeter,
            cx: cx.clone(),
        }))
    }

    /// The protocol.
    pub fn greeter(&self) -> &G {
        &self.greeter
    }

    /// Who may come in.
    pub fn users(&self) -> Arc<G::Users> {
        self.users.load_full()
    }

    /// The same, for a moment.
    pub fn users_now(&self) -> Guard<Arc<G::Users>> {
        self.users.load()
    }

    /// A predecessor may have let users in, and may still do so, that this instance does not know: their flows end.
    pub fn take_over(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        self.cx.plane.ledger.inherit(&self.cx.me, move |user| {
            this.upgrade().is_none_or(|inbound| inbound.users_now().has(user))
        });
    }

    /// Puts other users in force. Flows of those that are gone or have other secrets end, and nobody else's; also such as
    /// are under way, because their sessions ask again.
    pub fn replace_users(&self, next: G::Users) {
        let next = Arc::new(next);
        let old = self.users.swap(next.clone());
        let stays = next.stays(&old);
        let me = &self.cx.me;
        self.cx.plane.ledger.cut_where(Cut::Revoked, |entry| {
            let mine = entry.inbound.kind == me.kind && entry.inbound.tag == me.tag;
            mine && !stays(entry.user.as_deref())
        });
    }

    /// Takes connections apart and carries them to the router.
    pub fn unpack(&self) -> &Unpack {
        &self.unpack
    }

    /// The face that takes connections of other inbounds (listen field `detour`).
    pub fn inject(self: &Arc<Self>) -> Arc<dyn Inject> {
        Arc::new(Injected(self.clone()))
    }

    /// Accepts until the instance is cancelled: the `run` future of the component.
    ///
    /// # Errors
    /// The listening socket is broken.
    pub async fn run(self: Arc<Self>, listener: Bound<TcpListener>) -> Result<(), Fault> {
        self.entrance.watch(&self.cx);
        serve::tcp(listener, self.cx.clone(), move |accepted| {
            let Accepted { id, stream, peer, permit } = accepted;
            self.clone().serve(id, Box::new(stream), peer, permit)
        })
        .await
    }

    /// A session of this inbound, whose user is one of `users`.
    pub fn session(
        self: &Arc<Self>,
        id: u64,
        network: Network,
        (source, target): (SocketAddr, Target),
        user: Option<Arc<str>>,
        users: Arc<G::Users>,
    ) -> Box<Session> {
        let mut session = Session::new(id, self.cx.me.clone(), network, source, target);
        session.user = user;
        session.standing = Some(Arc::new(Admitted::new(self.clone(), users)));
        self.defaults.apply(&mut session);
        session
    }

    /// Carries a connection of a client to its end.
    pub fn serve(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send {
        // Setting up needs more state than relaying: boxed, so that an idle connection does not carry it.
        let admitted = Box::pin(self.clone().admit(id, stream, peer, permit));
        async move {
            if let Some((conn, inbound)) = admitted.await {
                inbound.unpack.conn(conn).await;
            }
        }
    }

    async fn admit(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<(Conn, Arc<Self>)> {
        let guests = Guests::new(self.clone(), peer);
        match self.entrance.admit(stream, &guests).await {
            Ok(Some(arrived)) => self.begin(id, arrived, peer, permit).await,
            Ok(None) => None,
            Err(error) => {
                let me = &self.cx.me;
                if error.is_quiet() {
                    debug!(conn = id, component = %me, "connection from {peer}: {error}");
                } else {
                    error!(conn = id, component = %me, "process connection from {peer}: {error}");
                }
                None
            }
        }
    }

    async fn begin(
        self: Arc<Self>,
        id: u64,
        arrived: Arrived,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<(Conn, Arc<Self>)> {
        let peer = arrived.source.unwrap_or(peer);
        let me = &self.cx.me;
        let users = self.users();
        match handshake(HANDSHAKE_TIMEOUT, self.greeter.greet(&users, id, arrived)).await {
            Ok(Wanted::Flow { target, user, flow }) => {
                let network = match flow {
                    Flow::Stream(_) => Network::Tcp,
                    Flow::Packet(_) => Network::Udp,
                };
                let session = self.session(id, network, (peer, target), user, users);
                Some((Conn { session, flow, permit }, self))
            }
            Ok(Wanted::Session { target, user, run }) => {
                let session = self.session(id, Network::Tcp, (peer, target), user, users);
                carry(&self.cx.plane, session, run).await;
                drop(permit);
                None
            }
            Err(Refused::Io(error)) => {
                debug!(conn = id, component = %me, "connection from {peer}: {error}");
                None
            }
            Err(error) => {
                error!(conn = id, component = %me, "process connection from {peer}: {error}");
                None
            }
        }
    }
}

impl<G: Greeter> Host for Inbound<G> {
    fn take(
        self: Arc<Self>,
        stream: Arrived,
        id: u64,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let begun = Box::pin(self.begin(id, stream, peer, permit));
        tokio::spawn(async move {
            if let Some((conn, inbound)) = begun.await {
                inbound.unpack.conn(conn).await;
            }
        });
    }

    fn next_id(&self) -> u64 {
        self.cx.plane.ledger.next_id()
    }

    fn closing(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.cx.cancel.cancelled())
    }
}

/// Takes connections of other inbounds.
struct Injected<G: Greeter>(Arc<Inbound<G>>);

impl<G: Greeter> Inject for Injected<G> {
    fn inject(&self, conn: Conn) -> Result<(), Conn> {
        let Conn { session, flow, permit } = conn;
        match flow {
            Flow::Stream(stream) => {
                tokio::spawn(self.0.clone().serve(session.id, stream, session.source, permit));
                Ok(())
            }
            flow => Err(Conn { session, flow, permit }),
        }
    }
}
