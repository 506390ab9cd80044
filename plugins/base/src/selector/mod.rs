//! Outbound `selector`: uses the member that it is told to use.

mod options;

use std::sync::Arc;

use crosspoint_kernel::component::{
    BuildCx, Change, Component, Control, Dep, Deps, Dial, Group, Outbound, Spec,
};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::snapshot::Plane;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin, Tag};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use parking_lot::Mutex;
use tracing::info;

pub use self::options::SelectorOptions;
use crate::group::{Interrupt, Members, ending_packets, ending_stream, supports};
use crosspoint_layers::spec::{at_start, done};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "selector", schema: SelectorOptions::describe, canonical: |raw| raw.canonical::<SelectorOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: SelectorOptions = raw.parse()?;
    if options.outbounds.is_empty() {
        return Err(raw.invalid("missing tags"));
    }
    let spec = SelectorSpec { named: !raw.tag().is_empty(), options };
    at_start(&raw, "default", spec.check())?;
    done(spec)
}

#[derive(Debug)]
struct SelectorSpec {
    options: SelectorOptions,
    /// Has a tag, so that its choice can be remembered.
    named: bool,
}

impl SelectorSpec {
    fn check(&self) -> Result<(), BuildError> {
        let default = &self.options.default;
        if !default.is_empty() && !self.options.outbounds.contains(default) {
            return Err(BuildError::options(format_args!("default outbound not found: {default}")));
        }
        Ok(())
    }
}

impl Spec for SelectorSpec {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        out.0.extend(self.options.outbounds.iter().map(|tag| Dep::Outbound(tag.as_str().into())));
    }

    fn change(&self, next: &dyn Spec) -> Change {
        // Other members are other slots, which only a build can find.
        let same = |next: &Self| next.options.outbounds == self.options.outbounds;
        if next.downcast_ref::<Self>().is_some_and(same) {
            Change::Reconfigure
        } else {
            Change::Replace
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let members = Members::find(&self.options.outbounds, &cx)?;
            let remembered = if self.named { cx.names.state.selected(&cx.me.tag) } else { None };
            let start = remembered.as_deref().and_then(|tag| members.by_tag(tag));
            let Some(start) = start.or_else(|| first(&members, &self.options)).cloned() else {
                return Err(BuildError::options("missing tags"));
            };
            let selector = Arc::new(Selector {
                tag: cx.me.tag.clone(),
                named: self.named,
                members,
                interrupt: Interrupt::new(&cx),
                plane: cx.plane.clone(),
                state: Mutex::new(State {
                    selected: start,
                    clients: self.options.interrupt_exist_connections,
                }),
            });
            Ok(Component {
                outbound: Some(selector.clone()),
                control: Some(Box::new(Handle { selector, spec: self })),
                ..Component::default()
            })
        })
    }
}

/// The member that options start with.
fn first<'a>(
    members: &'a Members,
    options: &SelectorOptions,
) -> Option<&'a Arc<Slot<dyn Outbound>>> {
    if options.default.is_empty() {
        members.iter().next()
    } else {
        members.by_tag(&options.default)
    }
}

struct State {
    selected: Arc<Slot<dyn Outbound>>,
    /// `interrupt_exist_connections`.
    clients: bool,
}

struct Selector {
    tag: Tag,
    named: bool,
    members: Members,
    interrupt: Interrupt,
    /// Knows where choices are remembered.
    plane: Arc<Plane>,
    state: Mutex<State>,
}

impl Selector {
    fn current(&self) -> Arc<Slot<dyn Outbound>> {
        self.state.lock().selected.clone()
    }

    /// Goes over to a member; connections through others are interrupted.
    fn switch(&self, slot: &Arc<Slot<dyn Outbound>>) {
        let clients = {
            let mut state = self.state.lock();
            if Arc::ptr_eq(&state.selected, slot) {
                return;
            }
            state.selected = slot.clone();
            state.clients
        };
        info!("outbound/selector[{}]: selected {}", self.tag, slot.tag);
        self.interrupt.switched(&slot.tag, None, clients);
    }
}

impl Outbound for Selector {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let (slot, token) = (self.current(), self.interrupt.token());
            let stream = slot.connect(dial).await?;
            Ok(if dial.entry.is_some() { stream } else { ending_stream(stream, token) })
        })
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let (slot, token) = (self.current(), self.interrupt.token());
            let packets = slot.associate(dial).await?;
            Ok(if dial.entry.is_some() { packets } else { ending_packets(packets, token) })
        })
    }

    fn supports(&self, network: Network) -> bool {
        supports(&self.current(), network)
    }

    fn group(&self) -> Option<&dyn Group> {
        Some(self)
    }
}

impl Group for Selector {
    fn members(&self) -> Vec<Tag> {
        self.members.tags()
    }

    fn selected(&self) -> Option<Tag> {
        Some(self.current().tag.clone())
    }

    fn select(&self, tag: &str) -> bool {
        let Some(slot) = self.members.by_tag(tag) else { return false };
        if self.named {
            self.plane.state().select(&self.tag, tag);
        }
        self.switch(slot);
        true
    }
}

/// Takes changes of `default` and `interrupt_exist_connections`.
struct Handle {
    selector: Arc<Selector>,
    spec: Arc<SelectorSpec>,
}

impl Control for Handle {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Ok(next) = (next as Arc<dyn std::any::Any + Send + Sync>).downcast::<SelectorSpec>()
        else {
            return;
        };
        self.selector.state.lock().clients = next.options.interrupt_exist_connections;
        // A choice that somebody made stays; only the start value has changed.
        let remembered = || self.selector.plane.state().selected(&self.selector.tag);
        let chosen = self.selector.named && remembered().is_some();
        if next.options.default != self.spec.options.default
            && !chosen
            && let Some(slot) = first(&self.selector.members, &next.options)
        {
            self.selector.switch(slot);
        }
        self.spec = next;
    }
}
