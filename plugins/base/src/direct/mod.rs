//! `direct`: the inbound that forwards what reaches a port, and the outbound that dials without a proxy.

mod client;
mod options;
mod server;

use crosspoint_kernel::addr::{Host, Target};

pub use options::{DirectInOptions, DirectOutOptions};

/// `override_address` and `override_port`: parts of a destination that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Override {
    host: Option<Host>,
    port: Option<u16>,
}

impl Override {
    fn new(address: &str, port: u16) -> Self {
        Self {
            host: (!address.is_empty()).then(|| address.into()),
            port: (port != 0).then_some(port),
        }
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn apply(&self, target: Target) -> Target {
        Target {
            host: self.host.clone().unwrap_or(target.host),
            port: self.port.unwrap_or(target.port),
        }
    }
}
