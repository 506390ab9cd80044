//! The microkernel of Crosspoint: plugins, components, supervision, snapshots and the relay.
//!
//! The kernel knows no protocol. It knows that a [`Plugin`] turns options into a
//! [`Spec`], that a spec builds a [`Component`], and that a
//! connection travels from an inbound through the route table of a [`Snapshot`](snapshot::Snapshot)
//! to the instance that a [`Slot`](slot::Slot) holds at that moment.
//!
//! | module | what it is |
//! |---|---|
//! | [`addr`], [`session`], [`error`] | where to, who, and why it failed |
//! | [`flow`] | streams, packet batches, prefixed wrappers, buffers |
//! | [`plugin`], [`component`] | what a protocol implements |
//! | [`slot`], [`snapshot`], [`resolve`] | what connections read; late binding of tags |
//! | [`state`] | what a restart should not forget |
//! | [`dispatch`], [`serve`] | accept → route → connect → relay, in one task |
//! | [`net`] | dialers and listeners with every shared dial and listen field |
//! | [`relay`] | the per-byte path: splice, copy, UDP pump |
//! | [`vault`], [`ledger`], [`users`] | sockets, connections and managed users that outlive components |
//! | [`supervise`] | actors: root, supervisor, leaves, reload |

pub mod addr;
pub mod component;
pub mod dispatch;
pub mod error;
pub mod fetch;
pub mod flow;
pub mod ledger;
pub mod net;
pub mod plugin;
pub mod relay;
pub mod resolve;
pub mod serve;
pub mod session;
pub mod slot;
pub mod snapshot;
pub mod state;
pub mod supervise;
pub mod users;
pub mod vault;

pub use component::{BuildCx, Component, Spec};
pub use error::{BuildError, DialError};
pub use plugin::{Kind, Plugin};

use std::{future::Future, pin::Pin, sync::Arc};

/// The name of a component, unique within its name space.
pub type Tag = Arc<str>;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
