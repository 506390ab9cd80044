//! Options of `trojan`.

use crosspoint_schema::decode::{NetworkList, NodeMap, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    DialOptions, ListenOptions, MultiplexInOptions, MultiplexOutOptions, ServerOptions,
    TlsInOptions, TlsOutOptions, TransportOptions,
};

options! {
    /// A Trojan server.
    pub struct TrojanInOptions ("option.TrojanInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Who may use the server.
        pub users: Vec<TrojanUser> = "users",
        /// TLS.
        pub tls: Option<TlsInOptions> = "tls",
        /// Where connections go that do not speak Trojan.
        pub fallback: Option<ServerOptions> = "fallback",
        /// The same by the application protocol that TLS agreed on.
        pub fallback_for_alpn: NodeMap<ServerOptions> = "fallback_for_alpn",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexInOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// A user of a Trojan server.
    pub struct TrojanUser ("option.TrojanUser") {
        /// Name in logs and rules; the index if empty.
        pub name: String = "name" always,
        /// Password.
        pub password: Secret = "password" always,
    }
}

options! {
    /// A client of a Trojan server.
    pub struct TrojanOutOptions ("option.TrojanOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The server.
        pub server: ServerOptions = flatten,
        /// Password.
        pub password: Secret = "password" always,
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
        /// TLS.
        pub tls: Option<TlsOutOptions> = "tls",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
    }
}
