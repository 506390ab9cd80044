//! Options of `direct`.

use crosspoint_schema::decode::NetworkList;
use crosspoint_schema::options;
use crosspoint_schema::options::{DialOptions, ListenOptions};

options! {
    /// Forwards what reaches a port.
    pub struct DirectInOptions ("option.DirectInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Networks to listen on; both if unset.
        pub network: NetworkList = "network",
        /// Address or domain name to forward to, instead of the one that was reached.
        pub override_address: String = "override_address",
        /// Port to forward to, instead of the one that was reached.
        pub override_port: u16 = "override_port",
    }
}

options! {
    /// Dials without a proxy.
    pub struct DirectOutOptions ("option._DirectOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// Address to dial instead of the destination's (deprecated: rule action `route-options`).
        pub override_address: String = "override_address",
        /// Port to dial instead of the destination's (deprecated: rule action `route-options`).
        pub override_port: u16 = "override_port",
        /// Removed in 1.6.0: refused unless 0.
        pub proxy_protocol: u8 = "proxy_protocol",
    }
}
