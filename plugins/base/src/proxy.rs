//! The inbounds that clients talk SOCKS or HTTP to: `socks`, `http` and `mixed`.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{
    BuildCx, Change, Claims, Component, Conn, Control, Deps, Fault, Inject, Spec,
};
use crosspoint_kernel::dispatch::Dispatch;
use crosspoint_kernel::error::{DialClass, Side};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream, Flow, PrefixedPackets};
use crosspoint_kernel::ledger::Cut;
use crosspoint_kernel::net::dial::Dialer;
use crosspoint_kernel::net::listen::{self, SessionDefaults};
use crosspoint_kernel::net::udp::UdpPackets;
use crosspoint_kernel::relay::{give_batch, take_batch};
use crosspoint_kernel::serve::{self, Accepted, HANDSHAKE_TIMEOUT, handshake};
use crosspoint_kernel::session::{Network, Session, Standing};
use crosspoint_kernel::{BoxFuture, BuildError, DialError};
use crosspoint_schema::decode::{Addr, Map, Options};
use crosspoint_schema::options::{AuthUser, DialOptions, ListenOptions, TlsInOptions};
use crosspoint_schema::{ConfigError, RawOptions};
use crosspoint_tls::{Server, ServerDefaults};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, error};

use crate::answer::{Answering, Short};
use crate::host;
use crate::http::HttpMixedInOptions;
use crate::http::exchange::{After, Client, Exchange, KEEP_ALIVE, Prepared};
use crate::http::wire::Status;
use crate::opening::{OpenError, Opened, Speaks, open};
use crate::read::farewell;
use crate::socks::SocksInOptions;
use crate::socks::packets::Encapsulated;
use crate::socks::wire::{Code, emit_reply5};
use crate::system_proxy::SystemProxy;
use crate::users::{SharedUsers, Users};
use crosspoint_layers::spec::{at_start, check};
use crosspoint_layers::unpack::Unpack;

/// What the options of these inbounds have in common.
pub(crate) trait ProxyOptions: Options + Send + Sync + 'static {
    fn listen(&self) -> &ListenOptions;
    fn users(&self) -> &[AuthUser];
    /// The same options for nobody.
    fn without_users(&self) -> Self;
    fn system_proxy(&self) -> bool {
        false
    }
    /// TLS at the server, if it is switched on.
    fn tls(&self) -> Option<&TlsInOptions> {
        None
    }
}

impl ProxyOptions for SocksInOptions {
    fn listen(&self) -> &ListenOptions {
        &self.listen
    }

    fn users(&self) -> &[AuthUser] {
        &self.users
    }

    fn without_users(&self) -> Self {
        Self { users: Vec::new(), ..self.clone() }
    }
}

impl ProxyOptions for HttpMixedInOptions {
    fn listen(&self) -> &ListenOptions {
        &self.listen
    }

    fn users(&self) -> &[AuthUser] {
        &self.users
    }

    fn without_users(&self) -> Self {
        Self { users: Vec::new(), ..self.clone() }
    }

    fn system_proxy(&self) -> bool {
        self.set_system_proxy
    }

    fn tls(&self) -> Option<&TlsInOptions> {
        self.tls.as_ref().filter(|tls| tls.enabled)
    }
}

/// Options of one of these inbounds.
#[derive(Debug)]
pub(crate) struct ProxySpec<O> {
    options: O,
    speaks: Speaks,
}

/// TLS, if the options want it.
fn tls(options: &impl ProxyOptions) -> Result<Option<Server>, BuildError> {
    let server = |tls| Server::new(tls, &ServerDefaults::default());
    Ok(options.tls().map(server).transpose()?)
}

impl<O: ProxyOptions> ProxySpec<O> {
    /// Reads the options.
    pub(crate) fn parse(raw: RawOptions<'_>, speaks: Speaks) -> Result<Self, ConfigError> {
        let options: O = raw.parse()?;
        if let Some(options) = options.tls() {
            options.note_deprecated(raw.notices());
        }
        check(&raw, "tls", tls(&options).map(drop))?;
        at_start(&raw, "proxy_protocol", listen::validate(options.listen()))?;
        Ok(Self { options, speaks })
    }

    fn users(&self) -> Option<Users> {
        Users::new(
            self.options
                .users()
                .iter()
                .map(|user| (user.username.as_str(), user.password.expose())),
        )
    }
}

impl<O: ProxyOptions> Spec for ProxySpec<O> {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(self.options.listen(), out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(self.options.listen(), &[Network::Tcp], out);
    }

    fn change(&self, next: &dyn Spec) -> Change {
        let same = |next: &Self| next.options.without_users() == self.options.without_users();
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let tls = tls(&self.options)?;
            let options = self.options.listen();
            let listener = listen::tcp_listener(options, &cx)?;
            let system = if self.options.system_proxy() {
                let addr = listener
                    .local_addr()
                    .map_err(|e| BuildError::io("address of the listener", e))?;
                Some(SystemProxy::find(addr, self.speaks == Speaks::Mixed)?)
            } else {
                None
            };
            let users = SharedUsers::new(self.users());
            let proxy = Arc::new(Proxy {
                dispatch: Dispatch::new(cx.plane.clone()),
                unpack: Unpack::new(&cx, None, true)?,
                standing: Arc::new(users.clone()),
                users,
                speaks: self.speaks,
                tls,
                defaults: SessionDefaults::new(options),
                listen: options.clone(),
                cx: cx.clone(),
            });
            let control = Handle { proxy: proxy.clone(), read: Self::users_of };
            let run = {
                let proxy = proxy.clone();
                async move {
                    if let Some(tls) = &proxy.tls {
                        tls.watch(cx.cancel.clone(), cx.me.clone());
                    }
                    // A predecessor may have had users that this instance does not know.
                    let users = proxy.users.clone();
                    cx.plane.ledger.inherit(&cx.me, move |user| users.holds(user));
                    let _system = match system {
                        Some(system) => {
                            Some(system.enable().await.map_err(|e| Fault(e.to_string()))?)
                        }
                        None => None,
                    };
                    serve::tcp(listener, cx, move |accepted| proxy.clone().accepted(accepted)).await
                }
            };
            Ok(Component {
                inject: Some(Arc::new(Injected(proxy))),
                control: Some(Box::new(control)),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

impl<O: ProxyOptions> ProxySpec<O> {
    fn users_of(next: &dyn Spec) -> Option<Option<Users>> {
        next.downcast_ref::<Self>().map(Self::users)
    }
}

/// Takes other users.
struct Handle {
    proxy: Arc<Proxy>,
    /// The users of a spec, if it is one of ours.
    read: fn(&dyn Spec) -> Option<Option<Users>>,
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        if let Some(users) = (self.read)(&*next) {
            let old = self.proxy.users.replace(users);
            self.proxy.cut_strangers(old.as_deref());
        }
    }
}

/// A running inbound.
struct Proxy {
    cx: BuildCx,
    dispatch: Dispatch,
    unpack: Unpack,
    speaks: Speaks,
    tls: Option<Server>,
    users: SharedUsers,
    /// The same, for sessions that ask.
    standing: Arc<dyn Standing>,
    defaults: SessionDefaults,
    listen: ListenOptions,
}

impl Proxy {
    /// Ends the flows of users who may not log in any more, as far as `old`, the users before, tells. Nobody's flows end where
    /// nobody has to log in.
    fn cut_strangers(&self, old: Option<&Users>) {
        let users = self.users.load();
        let Some(users) = users.as_deref() else { return };
        let me = &self.cx.me;
        self.cx.plane.ledger.cut_where(Cut::Revoked, |entry| {
            let mine = entry.inbound.kind == me.kind && entry.inbound.tag == me.tag;
            let stays = |name: &str| old.is_some_and(|old| old.same_user(users, name));
            mine && !entry.user.as_deref().is_some_and(stays)
        });
    }

    fn accepted(self: Arc<Self>, accepted: Accepted) -> impl Future<Output = ()> + Send {
        let Accepted { id, stream, peer, permit } = accepted;
        self.serve(id, Box::new(stream), peer, permit)
    }

    /// Serves one client to its end. What an idle tunnel keeps is this future: nothing is in it but
    /// that of the tunnel.
    fn serve(
        self: Arc<Self>,
        id: u64,
        stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send {
        let begin = Box::pin(self.clone().begin(id, stream, peer, permit));
        async move {
            if let Some(conn) = begin.await {
                self.unpack.conn(conn).await;
            }
        }
    }

    /// Talks with a client. A tunnel is given back; everything else is carried to its end here.
    async fn begin(
        self: Arc<Self>,
        id: u64,
        mut stream: BoxStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Option<Conn> {
        if let Some(tls) = &self.tls {
            match Box::pin(tls.accept(stream)).await {
                Ok(secured) => stream = Box::new(secured),
                Err(error) => {
                    let me = &self.cx.me;
                    if error.is_quiet() {
                        debug!(conn = id, component = %me, "connection from {peer}: {error}");
                    } else {
                        error!(conn = id, component = %me, "process connection from {peer}: {error}");
                    }
                    return None;
                }
            }
        }
        let opened = open(&mut stream, Vec::new(), self.speaks, &self.users);
        match handshake(HANDSHAKE_TIMEOUT, opened).await {
            Ok(Opened::Tunnel { target, user, source, dialect, lead, rest }) => {
                let session = self.session(id, Network::Tcp, peer, source, target, user);
                let flow = Flow::Stream(Box::new(Answering::new(stream, dialect, lead, rest)));
                return Some(Conn { session, flow, permit });
            }
            // Boxed, as everything that a handshake need not carry along.
            Ok(Opened::Forward { request, held }) => {
                let client = Client { stream, held };
                Box::pin(self.forward(id, client, peer, request, permit)).await;
            }
            Ok(Opened::Associate { user, from, lead }) => {
                Box::pin(self.associate(id, stream, peer, user, from, lead, permit)).await;
            }
            Err(error) => {
                drop(permit);
                self.refused(id, stream, peer, &error).await;
            }
        }
        None
    }

    fn session(
        &self,
        id: u64,
        network: Network,
        peer: SocketAddr,
        stated: Option<IpAddr>,
        target: Target,
        user: Option<Arc<str>>,
    ) -> Box<Session> {
        let source = stated.map_or(peer, |ip| SocketAddr::new(ip, 0));
        let mut session = Session::new(id, self.cx.me.clone(), network, source, target);
        session.user = user;
        session.standing = Some(self.standing.clone());
        self.defaults.apply(&mut session);
        session
    }

    /// Logs why there is no request, and tells the client.
    async fn refused(&self, id: u64, stream: BoxStream, peer: SocketAddr, why: &OpenError) {
        let me = &self.cx.me;
        match why {
            OpenError::Quiet | OpenError::Closed => {
                debug!(conn = id, component = %me, "connection from {peer} {why}");
            }
            _ => error!(conn = id, component = %me, "process connection from {peer}: {why}"),
        }
        if !why.answer().is_empty() {
            Box::pin(farewell(stream, why.answer())).await;
        }
    }

    /// Carries plain HTTP requests, one after another, each to where it belongs.
    async fn forward(
        &self,
        mut id: u64,
        mut client: Client,
        peer: SocketAddr,
        mut request: Box<Prepared>,
        mut permit: OwnedSemaphorePermit,
    ) {
        let back = Arc::new(Mutex::new(None));
        loop {
            let (target, user) = (request.target.clone(), request.user.clone());
            let session = self.session(id, Network::Tcp, peer, request.source, target, user);
            let exchange = Exchange::new(client, request, self.users.clone(), back.clone());
            self.dispatch
                .conn(Conn { session, flow: Flow::Stream(Box::new(exchange)), permit })
                .await;
            // A user who was cut in the middle of a request gets no further one: `After::Close`.
            let after = back.lock().take();
            (client, request) = match after {
                Some(After::Again(client, request)) => (client, request),
                Some(After::Next(client)) => match self.next(id, client, peer).await {
                    Some(Ok(next)) => next,
                    Some(Err(tunnel)) => return tunnel.await,
                    None => return,
                },
                Some(After::Unanswered(mut client, keep)) => {
                    let mut word = Vec::new();
                    Status::BadGateway.emit(keep, &mut word);
                    if !keep {
                        return farewell(client.stream, &word).await;
                    }
                    if client.stream.write_all(&word).await.is_err() {
                        return;
                    }
                    match self.next(id, client, peer).await {
                        Some(Ok(next)) => next,
                        Some(Err(tunnel)) => return tunnel.await,
                        None => return,
                    }
                }
                Some(After::Close) | None => return,
            };
            id = self.cx.plane.ledger.next_id();
            // The permits are never closed.
            let Ok(next) = serve::permits().acquire_owned().await else { return };
            permit = next;
        }
    }

    /// Waits for the next request of an HTTP client: a plain one, or a tunnel that is to be run.
    async fn next<'a>(
        &'a self,
        id: u64,
        client: Client,
        peer: SocketAddr,
    ) -> Option<Result<(Client, Box<Prepared>), BoxFuture<'a, ()>>> {
        let Client { mut stream, held } = client;
        // On loan from a removed inbound, the connection ends between two requests.
        let opened = tokio::select! {
            opened = handshake(KEEP_ALIVE, open(&mut stream, held, Speaks::Http, &self.users)) => opened,
            () = self.cx.cancel.cancelled() => return None,
        };
        match opened {
            Ok(Opened::Forward { request, held }) => Some(Ok((Client { stream, held }, request))),
            Ok(Opened::Tunnel { target, user, source, dialect, lead, rest }) => {
                Some(Err(Box::pin(async move {
                    let id = self.cx.plane.ledger.next_id();
                    let session = self.session(id, Network::Tcp, peer, source, target, user);
                    let flow = Flow::Stream(Box::new(Answering::new(stream, dialect, lead, rest)));
                    let Ok(permit) = serve::permits().acquire_owned().await else { return };
                    self.unpack.conn(Conn { session, flow, permit }).await;
                })))
            }
            Ok(Opened::Associate { .. }) => None,
            // Between requests a time-out is the ordinary end.
            Err(OpenError::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut => None,
            Err(error) => {
                self.refused(id, stream, peer, &error).await;
                None
            }
        }
    }

    /// A UDP socket on the address that the client has reached, in the network of the listener.
    async fn relay_socket(&self, local: IpAddr) -> Result<UdpPackets, DialError> {
        let listen = &self.listen;
        let ours = listen.netns.is_empty()
            && listen.bind_interface.is_empty()
            && listen.routing_mark.get().is_none();
        let socket = if ours {
            UdpSocket::bind(SocketAddr::new(local, 0)).await?
        } else {
            let (v4, v6) = match local {
                IpAddr::V4(ip) => (Some(ip.into()), None),
                IpAddr::V6(_) => (None, Some(Addr { ip: local, zone: String::new() })),
            };
            let options = DialOptions {
                inet4_bind_address: v4,
                inet6_bind_address: v6,
                bind_interface: listen.bind_interface.clone(),
                routing_mark: listen.routing_mark,
                netns: listen.netns.clone(),
                ..DialOptions::default()
            };
            let dialer = Dialer::new(&options, &self.cx)
                .map_err(|e| DialError::new(DialClass::Other, Side::Local, e))?;
            dialer.udp_bind(Some(local)).await?
        };
        Ok(UdpPackets::new(socket)?)
    }

    /// Opens a UDP relay for the client and carries its datagrams.
    #[expect(clippy::too_many_arguments, reason = "what one request consists of")]
    async fn associate(
        &self,
        id: u64,
        mut stream: BoxStream,
        peer: SocketAddr,
        user: Option<Arc<str>>,
        from: Target,
        lead: Short,
        permit: OwnedSemaphorePermit,
    ) {
        let me = &self.cx.me;
        let local = stream
            .local_addr()
            .map_or(IpAddr::from([127, 0, 0, 1]), |addr| addr.ip().to_canonical());
        let relay = match self.relay_socket(local).await {
            Ok(relay) => relay,
            Err(error) => {
                error!(conn = id, component = %me, "process connection from {peer}: listen udp: {error}");
                let mut word = lead.get().to_vec();
                emit_reply5(Code::Failure, &host::Target::UNSPECIFIED, &mut word);
                return farewell(stream, &word).await;
            }
        };
        let bound = relay.local_addr().unwrap_or_else(|_| SocketAddr::new(local, 0));
        let mut word = lead.get().to_vec();
        emit_reply5(Code::Succeeded, &bound.into(), &mut word);
        if let Err(error) = stream.write_all(&word).await {
            debug!(conn = id, component = %me, "connection from {peer}: {error}");
            return;
        }
        let packets = Encapsulated::relay(Box::new(relay), stream, peer.ip(), from.host.ip());
        // Where the first datagram goes decides for the association.
        let first =
            tokio::time::timeout(listen::UDP_TIMEOUT, first_packets(Box::new(packets))).await;
        match first {
            Ok(Ok((target, packets))) => {
                let session = self.session(id, Network::Udp, peer, None, target, user);
                self.dispatch.conn(Conn { session, flow: Flow::Packet(packets), permit }).await;
            }
            Ok(Err(error)) => {
                debug!(conn = id, component = %me, "packet connection from {peer}: {error}")
            }
            Err(_) => {
                debug!(conn = id, component = %me, "packet connection from {peer} stayed unused")
            }
        }
    }
}

/// Waits for the first datagrams. Their first destination, and the association with them in front.
async fn first_packets(mut packets: BoxPacketIo) -> std::io::Result<(Target, BoxPacketIo)> {
    let read = poll_fn(|cx| {
        let mut batch = take_batch();
        let result = packets.poll_recv(cx, &mut batch).map_ok(|_| {
            let copy = |index| {
                (bytes::Bytes::copy_from_slice(batch.payload(index)), batch.peer(index).clone())
            };
            (0..batch.len()).map(copy).collect::<Vec<_>>()
        });
        give_batch(batch);
        match result {
            Poll::Ready(Ok(read)) if read.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            result => result,
        }
    })
    .await?;
    let target = read.first().map_or_else(Target::unspecified, |(_, target)| target.clone());
    Ok((target, Box::new(PrefixedPackets::new(read, packets))))
}

/// Takes connections of other inbounds (listen field `detour`).
struct Injected(Arc<Proxy>);

impl Inject for Injected {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn output_size<A, F>(_: impl Fn(A) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn an_idle_tunnel_carries_nothing_along() {
        let all = output_size(|(proxy, accepted): (Arc<Proxy>, _)| proxy.accepted(accepted));
        let tunnel = output_size(|(dispatch, conn): (&'static Dispatch, _)| dispatch.conn(conn));
        assert!(all <= tunnel + 96, "{all} bytes, {tunnel} of them for the tunnel");
        assert!(std::mem::size_of::<Answering>() <= 112);
    }
}
