//! Outbound `block`: refuses every connection.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Component, Dial, Outbound, Spec};
use crosspoint_kernel::error::{DialClass, Side};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream};
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::options;

use crosspoint_layers::spec::done;

inventory::submit! {
    Plugin {
        kind: Kind::Outbound,
        type_name: "block",
        schema: BlockOptions::describe, canonical: |raw| raw.canonical::<BlockOptions>(),
        parse: |raw| done(Block(raw.parse()?)),
    }
}

options! {
    /// Refuses every connection (deprecated: rule action `reject`).
    pub struct BlockOptions ("option.StubOptions") {}
}

#[derive(Debug)]
struct Block(BlockOptions);

impl Spec for Block {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn build(self: Arc<Self>, _cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async {
            Ok(Component { outbound: Some(Arc::new(Blocked)), ..Component::default() })
        })
    }
}

struct Blocked;

/// The system's words for EPERM, which the reference gives.
fn refused() -> DialError {
    DialError::new(DialClass::Rejected, Side::Local, "operation not permitted")
}

impl Outbound for Blocked {
    fn connect<'a>(&'a self, _dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async { Err(refused()) })
    }

    fn associate<'a>(&'a self, _dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(refused()) })
    }
}
