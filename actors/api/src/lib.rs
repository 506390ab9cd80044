//! The control channel of Crosspoint: a Unix socket on which the daemon is asked what it does and told what to do, and
//! the watch on configuration files. Both are supervised components like any other.
//!
//! | module | what it is |
//! |---|---|
//! | [`protocol`] | requests and answers, one JSON object a line |
//! | [`socket`] | where the socket lies, how it is bound and guarded |
//! | [`control`] | the component that serves it |
//! | [`watch`] | the component that reloads when a file changes |
//! | [`client`] | what `crosspoint ctl` uses |

pub mod client;
pub mod control;
mod handler;
pub mod protocol;
mod serve;
pub mod socket;
pub mod watch;

pub use client::{Client, ClientError};
pub use control::{Control, ControlSpec};
pub use protocol::{Call, Reply, Request, Response};
pub use socket::SocketError;
pub use watch::WatchSpec;
