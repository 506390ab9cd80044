//! How an inbound listens.

use crate::decode::{Addr, Duration, Mark, UdpTimeout};
use crate::options;
use crate::options::DomainStrategy;

options! {
    /// Fields of every inbound that opens a socket.
    pub struct ListenOptions ("option.ListenOptions") {
        /// Address to listen on.
        pub listen: Option<Addr> = "listen",
        /// Port to listen on.
        pub listen_port: u16 = "listen_port",
        /// Bind the listening socket to this network interface.
        pub bind_interface: String = "bind_interface",
        /// Firewall mark of the listening socket (Linux).
        pub routing_mark: Mark = "routing_mark",
        /// Let other sockets listen on the same address (SO_REUSEADDR).
        pub reuse_addr: bool = "reuse_addr",
        /// Network namespace to listen in: a name or a path (Linux).
        pub netns: String = "netns",
        /// Idle time before the first keep-alive probe; 10 minutes by default.
        pub tcp_keep_alive: Duration = "tcp_keep_alive",
        /// Time between keep-alive probes; 75 seconds by default.
        pub tcp_keep_alive_interval: Duration = "tcp_keep_alive_interval",
        /// Accept TCP Fast Open.
        pub tcp_fast_open: bool = "tcp_fast_open",
        /// Accept Multipath TCP.
        pub tcp_multi_path: bool = "tcp_multi_path",
        /// Let the system fragment UDP datagrams; the default differs per protocol.
        pub udp_fragment: Option<bool> = "udp_fragment",
        /// Idle time after which a UDP association ends; a number counts seconds. 5 minutes by default.
        pub udp_timeout: UdpTimeout = "udp_timeout",
        /// Removed in 1.6.0: start fails when it is set.
        pub proxy_protocol: bool = "proxy_protocol",
        /// Removed in 1.6.0: start fails when it is set.
        pub proxy_protocol_accept_no_header: bool = "proxy_protocol_accept_no_header",
        /// Old routing fields.
        pub legacy: InboundLegacyOptions = flatten,
    }
}

options! {
    /// Routing fields that old configurations have on inbounds; rule actions replace them. `detour` is current.
    pub struct InboundLegacyOptions ("option.InboundOptions") {
        /// Sniff the protocol of connections (deprecated: rule action `sniff`).
        pub sniff: bool = "sniff",
        /// Connect to the sniffed domain (deprecated: rule action `sniff`).
        pub sniff_override_destination: bool = "sniff_override_destination",
        /// How long to sniff (deprecated: rule action `sniff`).
        pub sniff_timeout: Duration = "sniff_timeout",
        /// Resolve domains before routing (deprecated: rule action `resolve`).
        pub domain_strategy: DomainStrategy = "domain_strategy",
        /// Answer UDP from the address instead of the domain (deprecated: rule action `route-options`).
        pub udp_disable_domain_unmapping: bool = "udp_disable_domain_unmapping",
        /// Tag of the inbound that connections are handed on to.
        pub detour: String = "detour",
    }
}
