//! Outbound `direct`.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::flow::{Batch, BoxPacketIo, BoxStream, PacketIo};
use crosspoint_kernel::net::dial::{self, Dialer, Setup};
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::options::DialOptions;
use crosspoint_schema::{ConfigError, RawOptions, notice};

use super::{DirectOutOptions, Override};
use crosspoint_layers::spec::{check, done};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "direct", schema: DirectOutOptions::describe, canonical: |raw| raw.canonical::<DirectOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: DirectOutOptions = raw.parse()?;
    if !options.override_address.is_empty() || options.override_port != 0 {
        raw.deprecated(&notice::DESTINATION_OVERRIDE_FIELDS);
    }
    if !options.dial.detour.is_empty() {
        return Err(raw.invalid_at("detour", "`detour` is not supported in direct context"));
    }
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if options.proxy_protocol != 0 {
        return Err(raw.invalid_at(
            "proxy_protocol",
            "Proxy Protocol is deprecated and removed in sing-box 1.6.0",
        ));
    }
    done(DirectOut(options))
}

#[derive(Debug)]
struct DirectOut(DirectOutOptions);

impl Spec for DirectOut {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.0.dial, out);
    }

    fn is_empty_direct(&self) -> bool {
        let over = Override::new(&self.0.override_address, self.0.override_port);
        self.0.dial == DialOptions::default() && over.is_none()
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let options = &self.0;
            let setup = Setup { udp_fragment: true, ..Setup::default() };
            let over = Override::new(&options.override_address, options.override_port);
            let direct = Direct {
                empty: self.is_empty_direct(),
                dialer: Dialer::with(&options.dial, &cx, setup)?,
                over,
            };
            Ok(Component { outbound: Some(Arc::new(direct)), ..Component::default() })
        })
    }
}

struct Direct {
    dialer: Dialer,
    over: Override,
    empty: bool,
}

impl Outbound for Direct {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        if self.over.is_none() {
            return Box::pin(self.dialer.connect(dial));
        }
        Box::pin(async move {
            let target = self.over.apply(dial.target.clone());
            self.dialer.connect(dial.to(&target)).await
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        if self.over.is_none() {
            return Box::pin(self.dialer.associate(dial));
        }
        Box::pin(async move {
            let target = self.over.apply(dial.target.clone());
            let inner = self.dialer.associate(dial.to(&target)).await?;
            let packets = Overridden { inner, over: self.over.clone(), seen: Vec::new(), ready: 0 };
            Ok(Box::new(packets) as BoxPacketIo)
        })
    }

    fn is_empty_direct(&self) -> bool {
        self.empty
    }

    fn dials_resolved(&self) -> bool {
        true
    }
}

/// Destinations remembered for answers: the one that was used longest ago makes room.
const SEEN: usize = 64;

/// Sends to overridden destinations; answers seem to come from the ones that were asked for.
struct Overridden {
    inner: BoxPacketIo,
    over: Override,
    /// What was dialled, and for what.
    seen: Vec<(Target, Target)>,
    /// Datagrams at the front of the batch that is being sent which go to the right place already.
    ready: usize,
}

impl PacketIo for Overridden {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let added = ready!(self.inner.poll_recv(cx, batch))?;
        for index in batch.len().saturating_sub(added)..batch.len() {
            if let Some((_, asked)) =
                self.seen.iter().find(|(dialled, _)| dialled == batch.peer(index))
            {
                batch.set_peer(index, asked.clone());
            }
        }
        Poll::Ready(Ok(added))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        for index in self.ready..batch.len() {
            let asked = batch.peer(index).clone();
            let dialled = self.over.apply(asked.clone());
            if self.seen.last().is_none_or(|(_, last)| *last != asked) {
                self.seen.retain(|(known, _)| *known != dialled);
                if self.seen.len() >= SEEN {
                    self.seen.remove(0);
                }
                self.seen.push((dialled.clone(), asked));
            }
            batch.set_peer(index, dialled);
        }
        let sent = self.inner.poll_send(cx, batch);
        self.ready = batch.len();
        sent
    }
}
