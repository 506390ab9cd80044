//! Endpoint type `fault-wireguard`: the real `wireguard`, whose work panics, errors or hangs on order. Orders come on
//! the socket `TAG.sock` in the working directory.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    component::{Change, Claims, Control, Deps},
    plugin::registry,
};
use crosspoint_schema::{ConfigError, RawOptions, decode::Map};

use crate::fault::Orders;

inventory::submit! {
    Plugin {
        kind: Kind::Endpoint,
        type_name: "fault-wireguard",
        schema: |schema| (real().schema)(schema),
        canonical: |raw| (real().canonical)(raw),
        parse,
    }
}

fn real() -> &'static Plugin {
    registry()[&(Kind::Endpoint, "wireguard")]
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    Ok(Arc::new(Faulty((real().parse)(raw)?)))
}

#[derive(Debug)]
struct Faulty(Arc<dyn Spec>);

impl Spec for Faulty {
    fn canonical(&self) -> Map {
        self.0.canonical()
    }

    fn deps(&self, out: &mut Deps) {
        self.0.deps(out);
    }

    fn claims(&self, out: &mut Claims) {
        self.0.claims(out);
    }

    fn change(&self, next: &dyn Spec) -> Change {
        next.downcast_ref::<Self>().map_or(Change::Replace, |next| self.0.change(&*next.0))
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let orders = Orders::new(&format!("{}.sock", cx.me.tag))?;
            let mut component = self.0.clone().build(cx).await?;
            component.run = component.run.map(|work| Box::pin(orders.obey(work)) as _);
            component.control = component.control.map(|real| Box::new(Inner(real)) as _);
            Ok(component)
        })
    }
}

struct Inner(Box<dyn Control>);

impl Control for Inner {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        if let Some(next) = next.downcast_ref::<Faulty>() {
            self.0.reconfigure(next.0.clone());
        }
    }
}
