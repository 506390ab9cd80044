//! Where a peer is.

use crate::options;

options! {
    /// The server that an outbound connects to.
    pub struct ServerOptions ("option.ServerOptions") {
        /// Address or domain name of the server.
        pub server: String = "server" always,
        /// Port of the server.
        pub server_port: u16 = "server_port" always,
    }
}

options! {
    /// The address of a DNS server, whose port has a default.
    pub struct DnsAddressOptions ("option.DNSServerAddressOptions") {
        /// Address or domain name of the server.
        pub server: String = "server" always,
        /// Port of the server; the default of the protocol when 0.
        pub server_port: u16 = "server_port",
    }
}

impl ServerOptions {
    /// The address, if `server` is one and no name.
    #[must_use]
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        self.server.parse().ok()
    }
}
