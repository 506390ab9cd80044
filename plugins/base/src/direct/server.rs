//! Inbound `direct`.

use std::net::SocketAddr;
use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Claims, Component, Conn, Deps, Fault, Spec};
use crosspoint_kernel::dispatch::Dispatch;
use crosspoint_kernel::flow::Flow;
use crosspoint_kernel::net::listen::{self, Bound, SessionDefaults};
use crosspoint_kernel::net::udp::{Nat, NewSession};
use crosspoint_kernel::serve::{self, Accepted};
use crosspoint_kernel::session::{Network, Session};
use crosspoint_kernel::{BoxFuture, BuildError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::net::UdpSocket;
use tracing::warn;

use super::{DirectInOptions, Override};
use crosspoint_layers::spec::{at_start, done};

inventory::submit! {
    Plugin { kind: Kind::Inbound, type_name: "direct", schema: DirectInOptions::describe, canonical: |raw| raw.canonical::<DirectInOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: DirectInOptions = raw.parse()?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    done(DirectIn(options))
}

#[derive(Debug)]
struct DirectIn(DirectInOptions);

impl DirectIn {
    fn networks(&self) -> Vec<Network> {
        let network = &self.0.network;
        [(Network::Tcp, network.tcp()), (Network::Udp, network.udp())]
            .into_iter()
            .filter_map(|(network, has)| has.then_some(network))
            .collect()
    }
}

impl Spec for DirectIn {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.0.listen, out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.0.listen, &self.networks(), out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let options = &self.0;
            let networks = self.networks();
            let tcp = networks
                .contains(&Network::Tcp)
                .then(|| listen::tcp_listener(&options.listen, &cx))
                .transpose()?;
            let udp = networks
                .contains(&Network::Udp)
                .then(|| listen::udp_socket(&options.listen, &cx, true))
                .transpose()?;
            let direct = Arc::new(Direct {
                dispatch: Dispatch::new(cx.plane.clone()),
                over: Override::new(&options.override_address, options.override_port),
                defaults: SessionDefaults::new(&options.listen),
                cx: cx.clone(),
            });
            let run = async move {
                let streams = direct.clone();
                let streams = async {
                    match tcp {
                        Some(tcp) => {
                            serve::tcp(tcp, cx.clone(), move |accepted| {
                                streams.clone().accepted(accepted)
                            })
                            .await
                        }
                        None => std::future::pending().await,
                    }
                };
                let packets = async {
                    match udp {
                        Some(udp) => direct.clone().packets(udp).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    end = streams => end,
                    end = packets => end,
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

struct Direct {
    cx: BuildCx,
    dispatch: Dispatch,
    over: Override,
    defaults: SessionDefaults,
}

impl Direct {
    fn session(
        &self,
        id: u64,
        network: Network,
        source: SocketAddr,
        target: Target,
    ) -> Box<Session> {
        let mut session = Session::new(id, self.cx.me.clone(), network, source, target);
        self.defaults.apply(&mut session);
        session
    }

    async fn accepted(self: Arc<Self>, accepted: Accepted) {
        let Accepted { id, stream, peer, permit } = accepted;
        let Ok(local) = stream.local_addr() else { return };
        let session = self.session(id, Network::Tcp, peer, self.over.apply(local.into()));
        let conn = Conn { session, flow: Flow::Stream(Box::new(stream)), permit };
        self.dispatch.conn(conn).await;
    }

    /// Takes datagrams: an association for each source.
    async fn packets(self: Arc<Self>, socket: Bound<UdpSocket>) -> Result<(), Fault> {
        let fault = |what: &str, error: std::io::Error| Fault(format!("{what}: {error}"));
        socket.tune().map_err(|e| fault("set options of the socket", e))?;
        let local = socket.local_addr().map_err(|e| fault("address of the socket", e))?;
        let target = self.over.apply(local.into());
        let nat = Nat::on(&socket).map_err(|e| fault("prepare the socket", e))?;
        let classify = |_: SocketAddr, payload: &mut [u8]| Some((0..payload.len(), target.clone()));
        let admit = |new: NewSession| {
            let Some(permit) = serve::permit() else {
                warn!(component = %self.cx.me, "packet connection from {} dropped: too many connections", new.source);
                return;
            };
            let id = self.cx.plane.ledger.next_id();
            // On a socket for all addresses, the one that the client has reached.
            let reached = SocketAddr::new(new.local.unwrap_or(local.ip()), local.port());
            let target = self.over.apply(reached.into());
            let session = self.session(id, Network::Udp, new.source, target);
            let conn = Conn { session, flow: Flow::Packet(new.packets), permit };
            let dispatch = self.dispatch.clone();
            tokio::spawn(async move { dispatch.conn(conn).await });
        };
        let beat = async {
            loop {
                self.cx.pulse.beat().await;
            }
        };
        tokio::select! {
            () = self.cx.cancel.cancelled() => Ok(()),
            error = nat.serve(classify, admit) => Err(fault("receive", error)),
            () = beat => Ok(()),
        }
    }
}
