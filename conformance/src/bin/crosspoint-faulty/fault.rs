//! Component type `fault`: works like the simplest component of its kind, and panics, errors or
//! hangs on order. Orders come as datagrams on the Unix socket that `trigger` names.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, DialError, Kind, Plugin, Spec,
    addr::Target,
    component::{Change, Claims, Conn, Control, Dial, Fault, Outbound},
    dispatch::Dispatch,
    flow::{BoxPacketIo, BoxStream, Flow},
    net::{
        dial::Dialer,
        listen::{claims, tcp_listener},
    },
    resolve::{DnsServer, ExchangeError, Query},
    serve::{self, Accepted},
    session::{Network, Session},
};
use crosspoint_resolver::message;
use crosspoint_schema::{
    decode::{Map, Options as _},
    options,
    options::{DialOptions, ListenOptions},
};
use hickory_proto::rr::RecordType;
use tokio::net::UnixDatagram;

macro_rules! register {
    ($($kind:ident),*) => {$(
        inventory::submit! {
            Plugin {
                kind: Kind::$kind,
                type_name: "fault",
                schema: FaultOptions::describe, canonical: |raw| raw.canonical::<FaultOptions>(),
                parse: |raw| Ok(Arc::new(FaultSpec { kind: Kind::$kind, options: raw.parse()? })),
            }
        }
    )*};
}

register!(Inbound, Outbound, Endpoint, DnsServer, Service);

options! {
    /// A component that fails on order.
    pub struct FaultOptions ("conformance.FaultOptions") {
        /// Where it listens (inbound, endpoint).
        pub listen: ListenOptions = flatten,
        /// Path of the socket that takes orders: `panic`, `error`, `hang`, `panic-connection`.
        pub trigger: String = "trigger",
        /// Where an inbound sends its connections.
        pub target: String = "target",
        /// Its port.
        pub target_port: u16 = "target_port",
        /// `error`, `panic` or `hang`: fail to build.
        pub build: String = "build",
        /// `panic`: fail to take this change of options.
        pub reconfigure: String = "reconfigure",
        /// Anything: a difference that needs a new instance.
        pub marker: u32 = "marker",
    }
}

#[derive(Debug)]
struct FaultSpec {
    kind: Kind,
    options: FaultOptions,
}

impl FaultSpec {
    fn listens(&self) -> bool {
        matches!(self.kind, Kind::Inbound | Kind::Endpoint)
    }
}

impl Spec for FaultSpec {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn claims(&self, out: &mut Claims) {
        if self.listens() {
            claims(&self.options.listen, &[Network::Tcp], out);
        }
    }

    fn change(&self, next: &dyn Spec) -> Change {
        match next.downcast_ref::<Self>() {
            Some(next) if next.options.reconfigure != self.options.reconfigure => {
                Change::Reconfigure
            }
            _ => Change::Replace,
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            match self.options.build.as_str() {
                "error" => return Err(BuildError::options("ordered to fail")),
                "panic" => panic!("ordered to panic while building"),
                "hang" => std::future::pending().await,
                _ => {}
            }
            let orders = Orders::new(&self.options.trigger)?;
            let mut component =
                Component { control: Some(Box::new(Reconfigure)), ..Component::default() };
            match self.kind {
                Kind::Outbound | Kind::Endpoint => {
                    let dialer = Dialer::new(&DialOptions::default(), &cx)?;
                    component.outbound = Some(Arc::new(FaultOutbound(dialer)));
                }
                Kind::DnsServer => component.dns = Some(Arc::new(Loopback)),
                Kind::Inbound | Kind::Service => {}
            }
            component.run = Some(if self.listens() {
                let listener = tcp_listener(&self.options.listen, &cx)?;
                let target = Target::new(self.options.target.as_str(), self.options.target_port);
                let poison = orders.poison.clone();
                let (dispatch, me) = (Dispatch::new(cx.plane.clone()), cx.me.clone());
                let accept = serve::tcp(listener, cx, move |accepted: Accepted| {
                    let (dispatch, me) = (dispatch.clone(), me.clone());
                    let (target, poison) = (target.clone(), poison.clone());
                    async move {
                        if poison.swap(false, std::sync::atomic::Ordering::SeqCst) {
                            panic!("ordered to panic in a connection");
                        }
                        let Accepted { id, stream, peer, permit } = accepted;
                        let session = Session::new(id, me, Network::Tcp, peer, target);
                        let flow = Flow::Stream(Box::new(stream));
                        dispatch.conn(Conn { session, flow, permit }).await;
                    }
                });
                Box::pin(orders.obey(accept))
            } else {
                Box::pin(orders.obey(async move {
                    loop {
                        tokio::select! {
                            () = cx.cancel.cancelled() => return Ok(()),
                            () = cx.pulse.beat() => {}
                        }
                    }
                }))
            });
            Ok(component)
        })
    }
}

/// The socket that orders come in on.
pub(crate) struct Orders {
    socket: Option<UnixDatagram>,
    /// The next connection panics.
    poison: Arc<std::sync::atomic::AtomicBool>,
}

impl Orders {
    pub(crate) fn new(path: &str) -> Result<Self, BuildError> {
        let socket = if path.is_empty() {
            None
        } else {
            let path = PathBuf::from(path);
            // The instance before this one may have left its socket behind.
            let _ = std::fs::remove_file(&path);
            Some(UnixDatagram::bind(&path).map_err(|e| BuildError::io(path.display(), e))?)
        };
        Ok(Self { socket, poison: Arc::default() })
    }

    /// Does `work` until an order comes.
    pub(crate) async fn obey(
        self,
        work: impl Future<Output = Result<(), Fault>>,
    ) -> Result<(), Fault> {
        let Some(socket) = &self.socket else { return work.await };
        let mut work = std::pin::pin!(work);
        let mut buffer = [0; 64];
        loop {
            let length = tokio::select! {
                done = &mut work => return done,
                received = socket.recv(&mut buffer) => {
                    received.map_err(|e| Fault(format!("orders: {e}")))?
                }
            };
            match &buffer[..length] {
                b"panic" => panic!("ordered to panic"),
                b"error" => return Err(Fault("ordered to fail".to_owned())),
                b"hang" => std::future::pending().await,
                b"panic-connection" => {
                    self.poison.store(true, std::sync::atomic::Ordering::SeqCst);
                }
                other => {
                    return Err(Fault(format!(
                        "no such order: {}",
                        String::from_utf8_lossy(other)
                    )));
                }
            }
        }
    }
}

struct Reconfigure;

impl Control for Reconfigure {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let next = next.downcast_ref::<FaultSpec>();
        if next.is_some_and(|next| next.options.reconfigure == "panic") {
            panic!("ordered to panic while taking new options");
        }
    }
}

struct FaultOutbound(Dialer);

impl Outbound for FaultOutbound {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.0.connect(dial))
    }

    fn associate<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("outbound fault carries no datagrams")) })
    }
}

/// Says that every name is this machine.
struct Loopback;

impl DnsServer for Loopback {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            let query = message::read(query.message).map_err(ExchangeError::failed)?;
            let v4 = query.queries.first().is_some_and(|q| q.query_type() == RecordType::A);
            let addresses: &[IpAddr] = if v4 { &[IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { &[] };
            let reply = message::reply_addresses(&query, addresses, 60);
            reply.to_vec().map_err(ExchangeError::failed)
        })
    }
}
