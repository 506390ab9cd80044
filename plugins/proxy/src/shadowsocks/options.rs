//! Options of `shadowsocks`.

use crosspoint_schema::decode::{NetworkList, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    DialOptions, ListenOptions, MultiplexInOptions, MultiplexOutOptions, ServerOptions,
    UdpOverTcpOptions,
};

options! {
    /// A Shadowsocks server.
    pub struct ShadowsocksInOptions ("option.ShadowsocksInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Networks to serve; both if unset.
        pub network: NetworkList = "network",
        /// How bytes are sealed.
        pub method: String = "method" always,
        /// Password, or key in base64 for 2022 methods.
        pub password: Secret = "password",
        /// Who may use the server; whoever has the password if there is none.
        pub users: Vec<ShadowsocksUser> = "users",
        /// Servers to relay to, one for each user; excludes `users`.
        pub destinations: Vec<ShadowsocksDestination> = "destinations",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexInOptions> = "multiplex",
        /// Users come from an `ssm-api` service.
        pub managed: bool = "managed",
    }
}

options! {
    /// A user of a Shadowsocks server.
    pub struct ShadowsocksUser ("option.ShadowsocksUser") {
        /// Name in logs and rules; the index if empty.
        pub name: String = "name" always,
        /// Password, or key in base64.
        pub password: Secret = "password" always,
    }
}

options! {
    /// A server that a user is relayed to.
    pub struct ShadowsocksDestination ("option.ShadowsocksDestination") {
        /// Name in logs and rules; the index if empty.
        pub name: String = "name" always,
        /// Key of the user in base64.
        pub password: Secret = "password" always,
        /// The server.
        pub server: ServerOptions = flatten,
    }
}

options! {
    /// A client of a Shadowsocks server.
    pub struct ShadowsocksOutOptions ("option.ShadowsocksOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The server.
        pub server: ServerOptions = flatten,
        /// How bytes are sealed.
        pub method: String = "method" always,
        /// Password; for 2022 methods keys in base64, those of the servers on the way first, with `:` between them.
        pub password: Secret = "password" always,
        /// SIP003 plugin, built in: `obfs-local` or `v2ray-plugin`.
        pub plugin: String = "plugin",
        /// Its options, `key=value;…`.
        pub plugin_opts: String = "plugin_opts",
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
        /// Carry UDP in a TCP stream.
        pub udp_over_tcp: Option<UdpOverTcpOptions> = "udp_over_tcp",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
    }
}
