//! Options of `vless`.

use crosspoint_schema::decode::{NetworkList, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    DialOptions, ListenOptions, MultiplexInOptions, MultiplexOutOptions, ServerOptions,
    TlsInOptions, TlsOutOptions, TransportOptions,
};

options! {
    /// A VLESS server.
    pub struct VlessInOptions ("option.VLESSInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Who may use the server.
        pub users: Vec<VlessUser> = "users",
        /// TLS.
        pub tls: Option<TlsInOptions> = "tls",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexInOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// A user of a VLESS server.
    pub struct VlessUser ("option.VLESSUser") {
        /// Name in logs and rules; the index if empty.
        pub name: String = "name" always,
        /// A UUID, or a text that stands for one.
        pub uuid: Secret = "uuid" always,
        /// Empty, or `xtls-rprx-vision`.
        pub flow: String = "flow",
    }
}

options! {
    /// A client of a VLESS server.
    pub struct VlessOutOptions ("option.VLESSOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The server.
        pub server: ServerOptions = flatten,
        /// A UUID, or a text that stands for one.
        pub uuid: Secret = "uuid" always,
        /// Empty, or `xtls-rprx-vision`.
        pub flow: String = "flow",
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
        /// TLS.
        pub tls: Option<TlsOutOptions> = "tls",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
        /// How datagrams name their peers: `xudp` (also if unset), `packetaddr`, or not at all (empty).
        pub packet_encoding: Option<String> = "packet_encoding",
    }
}
