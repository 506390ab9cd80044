//! Between a protocol and the router: connections that carry others.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildError,
    component::{BuildCx, Conn},
    dispatch::Dispatch,
    flow::Flow,
    serve::{HANDSHAKE_TIMEOUT, handshake},
    session::Network,
    snapshot::Plane,
};
use crosspoint_schema::options::MultiplexInOptions;
use futures_util::future::Either;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    branches::carry,
    mux::{
        server::{self, Settings},
        wire,
    },
    uot::{self, Version},
};

/// Takes connections of a protocol apart where they carry others, and lets the rest pass.
#[derive(Clone)]
pub struct Unpack {
    dispatch: Dispatch,
    plane: Arc<Plane>,
    mux: Option<Settings>,
    udp_over_tcp: bool,
    /// The instance goes: sessions end with their last stream.
    cancel: CancellationToken,
}

impl Unpack {
    /// What an inbound takes apart. Some protocols of the reference know UDP over TCP and some do not.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(
        cx: &BuildCx,
        mux: Option<&MultiplexInOptions>,
        udp_over_tcp: bool,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            dispatch: Dispatch::new(cx.plane.clone()),
            plane: cx.plane.clone(),
            mux: settings(mux, udp_over_tcp)?,
            udp_over_tcp,
            cancel: cx.cancel.clone(),
        })
    }

    /// Carries a connection to its end, in the caller's task.
    pub fn conn(&self, conn: Conn) -> impl Future<Output = ()> + Send {
        let stream = matches!(conn.flow, Flow::Stream(_));
        if let Some(settings) =
            self.mux.filter(|_| stream && wire::is_session(&conn.session.target))
        {
            return Either::Left(self.sessions(settings, conn));
        }
        let version = Version::of(&conn.session.target).filter(|_| stream && self.udp_over_tcp);
        match version {
            Some(version) => Either::Left(self.over_tcp(version, conn)),
            // Nothing is added to what an ordinary connection needs.
            None => Either::Right(self.dispatch.conn(conn)),
        }
    }

    /// Makes datagrams of a stream that carries them, and carries those.
    fn over_tcp(&self, version: Version, conn: Conn) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(conn) = Box::pin(datagrams(version, conn)).await {
                self.dispatch.conn(conn).await;
            }
        })
    }

    /// Runs a session of sing-mux.
    fn sessions(&self, settings: Settings, conn: Conn) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Conn { session, flow, permit: _permit } = conn;
            let Flow::Stream(stream) = flow else { return };
            let cancel = self.cancel.clone();
            carry(&self.plane, session, |branches| {
                server::serve(settings, stream, branches, cancel)
            })
            .await;
        })
    }
}

/// Makes datagrams of a stream that carries them.
async fn datagrams(version: Version, conn: Conn) -> Option<Conn> {
    let Conn { mut session, flow, permit } = conn;
    let Flow::Stream(stream) = flow else { return None };
    match handshake(HANDSHAKE_TIMEOUT, uot::accept(version, stream)).await {
        Ok((target, packets)) => {
            // Rules see the name that the client had asked for as a sniffed domain, as in the reference.
            let name = session.target.host.name().map(Into::into);
            session.domain = name;
            session.network = Network::Udp;
            session.target = target;
            Some(Conn { session, flow: Flow::Packet(packets), permit })
        }
        Err(error) => {
            let (conn, component, source) = (session.id, &session.inbound, session.source);
            error!(conn, %component, "process connection from {source}: UoT read request: {error}");
            None
        }
    }
}

/// Finds what is wrong with the options.
///
/// # Errors
/// They are wrong.
pub fn check(mux: Option<&MultiplexInOptions>) -> Result<(), BuildError> {
    settings(mux, false).map(drop)
}

fn settings(
    mux: Option<&MultiplexInOptions>,
    udp_over_tcp: bool,
) -> Result<Option<Settings>, BuildError> {
    let mux = mux.filter(|mux| mux.enabled);
    mux.map(|mux| Settings::new(mux, udp_over_tcp)).transpose()
}
