//! The router.

use crate::decode::{Duration, Listable, Mark};
use crate::options;
use crate::options::{DomainResolver, InterfaceType, NetworkStrategy, Rule, RuleSet};

options! {
    /// The router.
    pub struct RouteOptions ("option.RouteOptions") {
        /// Removed in 1.12.0: read, never used.
        pub geoip: Option<GeoDatabaseOptions> = "geoip",
        /// Removed in 1.12.0: read, never used.
        pub geosite: Option<GeositeOptions> = "geosite",
        /// Rules, tried in order.
        pub rules: Vec<Rule> = "rules",
        /// Named sets of rules.
        pub rule_set: Vec<RuleSet> = "rule_set",
        /// Tag of the outbound for what no rule decides; the first one by default.
        pub final_outbound: String = "final",
        /// Find out the local program of every connection.
        pub find_process: bool = "find_process",
        /// Bind outbound sockets to the default interface, so that traffic does not loop through a TUN.
        pub auto_detect_interface: bool = "auto_detect_interface",
        /// Take an Android VPN for the default interface.
        pub override_android_vpn: bool = "override_android_vpn",
        /// Bind outbound sockets to this interface.
        pub default_interface: String = "default_interface",
        /// Firewall mark of outbound sockets (Linux).
        pub default_mark: Mark = "default_mark",
        /// DNS server that resolves the domain names dialers meet.
        pub default_domain_resolver: Option<DomainResolver> = "default_domain_resolver",
        /// Which networks of the device to use (graphical clients).
        pub default_network_strategy: Option<NetworkStrategy> = "default_network_strategy",
        /// Networks to use.
        pub default_network_type: Listable<InterfaceType> = "default_network_type",
        /// Networks to use when the wanted ones fail.
        pub default_fallback_network_type: Listable<InterfaceType> = "default_fallback_network_type",
        /// How long to wait before trying the next network; 300 ms by default.
        pub default_fallback_delay: Duration = "default_fallback_delay",
    }
}

options! {
    /// The removed GeoIP database: read, never used.
    pub struct GeoDatabaseOptions ("option.GeoIPOptions") {
        /// The file.
        pub path: String = "path",
        /// Where it came from.
        pub download_url: String = "download_url",
        /// Outbound for the download.
        pub download_detour: String = "download_detour",
    }
}

options! {
    /// The removed Geosite database: read, never used.
    pub struct GeositeOptions ("option.GeositeOptions") {
        /// The file.
        pub path: String = "path",
        /// Where it came from.
        pub download_url: String = "download_url",
        /// Outbound for the download.
        pub download_detour: String = "download_detour",
    }
}
