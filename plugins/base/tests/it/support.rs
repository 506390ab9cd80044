//! A small world: components, a route table that sends everything to outbound `out`, a resolver for `*.test`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crosspoint_kernel::component::{BuildCx, Component, Control, Incarnation, Spec};
use crosspoint_kernel::flow::Flow;
use crosspoint_kernel::plugin::registry;
use crosspoint_kernel::resolve::{Lookup, Resolve, ResolveError};
use crosspoint_kernel::session::Session;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::snapshot::{
    Decision, Namespace, Plane, PreMatch, RouteDefaults, RouteError, RouteTable, Snapshot,
};
use crosspoint_kernel::supervise::Pulse;
use crosspoint_kernel::{BoxFuture, Kind, Tag};
use crosspoint_schema::decode::{Context, Cursor};
use crosspoint_schema::{ConfigError, RawComponent, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Names under `.test` are here, all others nowhere.
struct Names;

impl Resolve for Names {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            if lookup.name.ends_with(".test") {
                Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
            } else {
                Err(ResolveError::NotFound { name: lookup.name.into() })
            }
        })
    }
}

/// Sends connections of inbound `x` to outbound `x` if there is one, else to `out`. Counts them.
#[derive(Default)]
struct Routes {
    routed: AtomicU64,
    last: parking_lot::Mutex<Option<Session>>,
}

struct Table(Arc<Routes>);

impl RouteTable for Table {
    fn route<'a>(
        &'a self,
        session: &'a mut Session,
        _flow: &'a mut Flow,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Decision, RouteError>> {
        Box::pin(async move {
            self.0.routed.fetch_add(1, Ordering::Relaxed);
            *self.0.last.lock() = Some(session.clone());
            let outbounds = &snapshot.names.outbounds;
            let slot = outbounds.get(&session.inbound.tag).or_else(|| outbounds.get("out"));
            slot.cloned().map(Decision::Outbound).ok_or_else(|| RouteError("no outbound".into()))
        })
    }

    fn pre_match(&self, _session: &mut Session, _snapshot: &Snapshot) -> PreMatch {
        PreMatch::Accept
    }
}

/// A component that was built.
pub(crate) struct Built {
    pub(crate) spec: Arc<dyn Spec>,
    pub(crate) control: Option<Box<dyn Control>>,
    cancel: CancellationToken,
    _run: Option<JoinHandle<()>>,
}

impl Drop for Built {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Built {
    /// Gives the component other options, which it must take by message.
    pub(crate) fn reconfigure(&mut self, kind: Kind, options: &str) {
        let next = parse(kind, options).unwrap();
        assert_eq!(self.spec.change(&*next), crosspoint_kernel::component::Change::Reconfigure);
        self.control.as_mut().expect("takes options").reconfigure(next.clone());
        self.spec = next;
    }
}

/// Parses one component.
pub(crate) fn parse(kind: Kind, text: &str) -> Result<Arc<dyn Spec>, ConfigError> {
    let cx = Context::default();
    let node = json::parse(text).expect("valid JSON");
    let raw = RawComponent::split(kind, 0, &Cursor::new(&node, "x[0]", &cx))?;
    let plugin = registry().get(&(kind, raw.type_name.as_str())).expect("a type of this crate");
    (plugin.parse)(raw.raw(&cx))
}

fn tag_of(text: &str) -> (String, String) {
    let value: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
    let get = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or("0").to_owned();
    (get("tag"), get("type"))
}

/// Everything of one test.
pub(crate) struct World {
    pub(crate) plane: Arc<Plane>,
    routes: Arc<Routes>,
    names: Arc<Namespace>,
    pub(crate) components: Vec<(Tag, Built)>,
}

impl World {
    /// Builds outbounds and then inbounds.
    pub(crate) async fn new(outbounds: &[&str], inbounds: &[&str]) -> Self {
        let mut names = Namespace::default();
        for text in outbounds {
            let tag: Tag = tag_of(text).0.into();
            names.outbounds.insert(tag.clone(), Slot::new(tag));
        }
        for text in inbounds {
            let tag: Tag = tag_of(text).0.into();
            names.injects.insert(tag.clone(), Slot::new(tag));
        }
        let (names, routes) = (Arc::new(names), Arc::new(Routes::default()));
        let snapshot = Snapshot {
            generation: 1,
            routes: Arc::new(Table(routes.clone())),
            names: names.clone(),
            resolver: Arc::new(Names),
            defaults: RouteDefaults::default(),
        };
        let plane = Plane::new(snapshot);
        let mut world = Self { plane: Arc::new(plane), routes, names, components: Vec::new() };
        let all = outbounds
            .iter()
            .map(|o| (Kind::Outbound, o))
            .chain(inbounds.iter().map(|i| (Kind::Inbound, i)));
        for (kind, text) in all {
            world.build(kind, text).await.unwrap();
        }
        world
    }

    /// Builds one component and starts it.
    pub(crate) async fn build(&mut self, kind: Kind, text: &str) -> Result<(), String> {
        let spec = parse(kind, text).map_err(|e| e.to_string())?;
        let (tag, type_name) = tag_of(text);
        let tag: Tag = tag.into();
        let me = Arc::new(Incarnation {
            kind,
            type_name: String::leak(type_name),
            tag: tag.clone(),
            epoch: 1,
        });
        let cancel = CancellationToken::new();
        let cx = BuildCx {
            me: me.clone(),
            cancel: cancel.clone(),
            plane: self.plane.clone(),
            names: self.names.clone(),
            pulse: Pulse::default(),
            condition: Default::default(),
        };
        let Component { outbound, inject, control, run, .. } =
            spec.clone().build(cx).await.map_err(|e| e.to_string())?;
        if let (Some(face), Some(slot)) = (outbound, self.names.outbounds.get(&tag)) {
            slot.set(me.clone(), face);
        }
        if let (Some(face), Some(slot)) = (inject, self.names.injects.get(&tag)) {
            slot.set(me, face);
        }
        let run = run.map(|run| tokio::spawn(async move { run.await.expect("runs") }));
        self.components.push((tag, Built { spec, control, cancel, _run: run }));
        Ok(())
    }

    pub(crate) fn component(&mut self, tag: &str) -> &mut Built {
        &mut self.components.iter_mut().find(|(name, _)| &**name == tag).expect("built").1
    }

    pub(crate) fn slot(&self, tag: &str) -> &Arc<Slot<dyn crosspoint_kernel::component::Outbound>> {
        &self.names.outbounds[tag]
    }

    /// Connections that were routed so far.
    pub(crate) fn routed(&self) -> u64 {
        self.routes.routed.load(Ordering::Relaxed)
    }

    /// The session that was routed last.
    pub(crate) fn last(&self) -> Session {
        self.routes.last.lock().clone().expect("a session")
    }
}

pub(crate) const DIRECT: &str = r#"{"type": "direct", "tag": "out"}"#;

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that answers with what it gets, until the end.
pub(crate) async fn echo() -> SocketAddr {
    serve(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// A TCP server on a free port.
pub(crate) async fn serve<F: Future<Output = ()> + Send + 'static>(
    handler: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut tasks = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn(handler(stream));
        }
    });
    addr
}

/// A UDP server that answers with what it gets.
pub(crate) async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..n], from).await;
        }
    });
    addr
}

pub(crate) async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// Reads exactly `n` bytes.
pub(crate) async fn take(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Reads to the end; a reset counts as one.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// Reads up to and with an empty line.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends, and expects it back.
pub(crate) async fn ping(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    assert_eq!(take(stream, text.len()).await, text);
}

/// Asks a SOCKS5 proxy without login for a tunnel.
pub(crate) async fn socks5(port: u16, to: SocketAddr) -> (TcpStream, u8) {
    let mut stream = connect(port).await;
    stream.write_all(b"\x05\x01\x00").await.unwrap();
    assert_eq!(take(&mut stream, 2).await, b"\x05\x00");
    stream.write_all(&request5(1, to)).await.unwrap();
    let code = take(&mut stream, 10).await[1];
    (stream, code)
}

/// A SOCKS5 request.
pub(crate) fn request5(command: u8, to: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![5, command, 0];
    bytes.extend(address5(to));
    bytes
}

/// The address field of SOCKS5.
pub(crate) fn address5(to: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = to.ip() else { panic!("IPv4 in tests") };
    let mut bytes = vec![1];
    bytes.extend(ip.octets());
    bytes.extend(to.port().to_be_bytes());
    bytes
}
