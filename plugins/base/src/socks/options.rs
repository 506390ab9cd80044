//! Options of `socks`.

use crosspoint_schema::decode::{NetworkList, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    AuthUser, DialOptions, DomainResolver, ListenOptions, ServerOptions, UdpOverTcpOptions,
};

options! {
    /// A proxy for SOCKS clients.
    pub struct SocksInOptions ("option.SocksInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Who may use the proxy; everybody if there is none.
        pub users: Vec<AuthUser> = "users",
        /// Read and not used, as in the reference.
        pub domain_resolver: Option<DomainResolver> = "domain_resolver",
    }
}

options! {
    /// A SOCKS proxy.
    pub struct SocksOutOptions ("option.SOCKSOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The proxy.
        pub server: ServerOptions = flatten,
        /// Version of the protocol: 4, 4a or 5; 5 if unset.
        pub version: String = "version",
        /// Name to log in with.
        pub username: String = "username",
        /// Password to log in with.
        pub password: Secret = "password",
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
        /// Carry UDP in a TCP stream.
        pub udp_over_tcp: Option<UdpOverTcpOptions> = "udp_over_tcp",
    }
}
