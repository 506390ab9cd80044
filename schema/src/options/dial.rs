//! How an outbound dials.

use crate::decode::{Addr, Duration, Listable, Mark};
use crate::options::{DomainResolver, DomainStrategy};
use crate::{options, string_enum};

string_enum! {
    /// Which networks of the device to dial through.
    pub enum NetworkStrategy: "unknown network strategy: " {
        /// The default network only.
        Default = "default",
        /// All wanted networks at once.
        Hybrid = "hybrid",
        /// The wanted networks, then the fallback ones.
        Fallback = "fallback",
    }
}

string_enum! {
    /// A kind of network interface.
    pub enum InterfaceType: "unknown interface type: " {
        /// Wi-Fi.
        Wifi = "wifi",
        /// A mobile network.
        Cellular = "cellular",
        /// A cable.
        Ethernet = "ethernet",
        /// Anything else.
        Other = "other",
    }
}

options! {
    /// Fields of everything that opens connections.
    pub struct DialOptions ("option.DialerOptions") {
        /// Tag of the outbound to dial through.
        pub detour: String = "detour",
        /// Bind sockets to this network interface.
        pub bind_interface: String = "bind_interface",
        /// Local IPv4 address.
        pub inet4_bind_address: Option<Addr> = "inet4_bind_address",
        /// Local IPv6 address.
        pub inet6_bind_address: Option<Addr> = "inet6_bind_address",
        /// Unix socket to which every socket is passed for protection from an Android VPN.
        pub protect_path: String = "protect_path",
        /// Firewall mark of sockets (Linux).
        pub routing_mark: Mark = "routing_mark",
        /// Reuse local addresses (SO_REUSEADDR).
        pub reuse_addr: bool = "reuse_addr",
        /// Network namespace to dial in: a name or a path (Linux).
        pub netns: String = "netns",
        /// Time for a connection to be established; 5 seconds by default.
        pub connect_timeout: Duration = "connect_timeout",
        /// Use TCP Fast Open.
        pub tcp_fast_open: bool = "tcp_fast_open",
        /// Use Multipath TCP.
        pub tcp_multi_path: bool = "tcp_multi_path",
        /// Let the system fragment UDP datagrams; the default differs per protocol.
        pub udp_fragment: Option<bool> = "udp_fragment",
        /// DNS server that resolves the domain names this dialer meets.
        pub domain_resolver: Option<DomainResolver> = "domain_resolver",
        /// Which networks of the device to use (graphical clients).
        pub network_strategy: Option<NetworkStrategy> = "network_strategy",
        /// Networks to use.
        pub network_type: Listable<InterfaceType> = "network_type",
        /// Networks to use when the wanted ones fail.
        pub fallback_network_type: Listable<InterfaceType> = "fallback_network_type",
        /// How long to wait before trying the next address or network; 300 ms by default.
        pub fallback_delay: Duration = "fallback_delay",
        /// Which IP versions of a name to use (deprecated: `domain_resolver`).
        pub domain_strategy: DomainStrategy = "domain_strategy",
    }
}
