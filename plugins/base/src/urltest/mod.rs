//! Outbound `urltest`: uses the member that answers fastest.

mod options;
mod pick;
mod tester;
mod url;

use std::sync::Arc;
use std::time::Duration;

use crosspoint_kernel::component::{
    BuildCx, Change, Component, Control, Dep, Deps, Dial, Group, Outbound, Spec,
};
use crosspoint_kernel::error::{DialClass, Side};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin, Tag};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};

pub use self::options::UrlTestOptions;
use self::tester::{Settings, Tester};
use self::url::Url;
use crate::group::{Interrupt, Members, ending_packets, ending_stream, history};
use crosspoint_layers::spec::{at_start, done};

/// Time between tests.
const INTERVAL: Duration = Duration::from_secs(3 * 60);
/// Tests stop when the group was not used for that long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Milliseconds by which another member must be faster.
const TOLERANCE: u16 = 50;

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "urltest", schema: UrlTestOptions::describe, canonical: |raw| raw.canonical::<UrlTestOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: UrlTestOptions = raw.parse()?;
    if options.outbounds.is_empty() {
        return Err(raw.invalid("missing tags"));
    }
    let spec = UrlTestSpec(options);
    at_start(&raw, "interval", spec.intervals().map(drop))?;
    done(spec)
}

#[derive(Debug)]
struct UrlTestSpec(UrlTestOptions);

impl UrlTestSpec {
    /// `interval` and `idle_timeout`.
    fn intervals(&self) -> Result<(Duration, Duration), BuildError> {
        let interval = self.0.interval.or(INTERVAL);
        let idle_timeout = self.0.idle_timeout.or(IDLE_TIMEOUT);
        if interval > idle_timeout {
            return Err(BuildError::options("interval must be less or equal than idle_timeout"));
        }
        Ok((interval, idle_timeout))
    }

    fn settings(&self) -> Result<Settings, BuildError> {
        let options = &self.0;
        let (interval, idle_timeout) = self.intervals()?;
        let tolerance = if options.tolerance == 0 { TOLERANCE } else { options.tolerance };
        let url = Url::parse(&options.url)?;
        Ok(Settings {
            url,
            interval,
            idle_timeout,
            tolerance,
            clients: options.interrupt_exist_connections,
        })
    }
}

impl Spec for UrlTestSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        out.0.extend(self.0.outbounds.iter().map(|tag| Dep::Outbound(tag.as_str().into())));
    }

    fn change(&self, next: &dyn Spec) -> Change {
        // Other members are other slots, which only a build can find.
        let same = |next: &Self| next.0.outbounds == self.0.outbounds && next.settings().is_ok();
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let members = Members::find(&self.0.outbounds, &cx)?;
            let tester = Arc::new(Tester::new(
                members,
                self.settings()?,
                Interrupt::new(&cx),
                cx.plane.clone(),
            ));
            let run = tester.clone().run(cx);
            Ok(Component {
                outbound: Some(Arc::new(UrlTest { tester: tester.clone() })),
                control: Some(Box::new(Handle(tester))),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

struct UrlTest {
    tester: Arc<Tester>,
}

impl UrlTest {
    fn choose(&self, network: Network) -> Result<Arc<Slot<dyn Outbound>>, DialError> {
        self.tester.touch();
        let missing =
            || DialError::new(DialClass::Unsupported, Side::Local, "missing supported outbound");
        self.tester.current(network).ok_or_else(missing)
    }

    /// The member did not work: what was measured of it is no longer true.
    fn failed(&self, member: &Slot<dyn Outbound>, error: &DialError) {
        history().forget(&member.tag);
        // The target's own refusal says nothing against the way to it.
        if error.side != Side::Target {
            self.tester.update();
        }
    }
}

impl Outbound for UrlTest {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let (slot, token) = (self.choose(Network::Tcp)?, self.tester.interrupt.token());
            let stream = slot.connect(dial).await.inspect_err(|error| self.failed(&slot, error))?;
            Ok(if dial.entry.is_some() { stream } else { ending_stream(stream, token) })
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let (slot, token) = (self.choose(Network::Udp)?, self.tester.interrupt.token());
            let packets =
                slot.associate(dial).await.inspect_err(|error| self.failed(&slot, error))?;
            Ok(if dial.entry.is_some() { packets } else { ending_packets(packets, token) })
        })
    }

    fn group(&self) -> Option<&dyn Group> {
        Some(self)
    }
}

impl Group for UrlTest {
    fn members(&self) -> Vec<Tag> {
        self.tester.members.tags()
    }

    fn selected(&self) -> Option<Tag> {
        self.tester.selected()
    }

    /// Chooses by itself.
    fn select(&self, _tag: &str) -> bool {
        false
    }
}

/// Takes changes of everything but the members.
struct Handle(Arc<Tester>);

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        if let Some(Ok(settings)) = next.downcast_ref::<UrlTestSpec>().map(UrlTestSpec::settings) {
            self.0.configure(settings);
        }
    }
}
