//! Options of `vmess`.

use crosspoint_schema::decode::{NetworkList, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    DialOptions, ListenOptions, MultiplexInOptions, MultiplexOutOptions, ServerOptions,
    TlsInOptions, TlsOutOptions, TransportOptions,
};

options! {
    /// A VMess server.
    pub struct VmessInOptions ("option.VMessInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Who may use the server.
        pub users: Vec<VmessUser> = "users",
        /// TLS.
        pub tls: Option<TlsInOptions> = "tls",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexInOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// A user of a VMess server.
    pub struct VmessUser ("option.VMessUser") {
        /// Name in logs and rules; the index if empty.
        pub name: String = "name" always,
        /// Id: a UUID, or any text.
        pub uuid: Secret = "uuid" always,
        /// Number of alternative ids; with some, requests of the legacy protocol are taken.
        pub alter_id: i64 = "alterId",
    }
}

options! {
    /// A client of a VMess server.
    pub struct VmessOutOptions ("option.VMessOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The server.
        pub server: ServerOptions = flatten,
        /// Id: a UUID, or any text.
        pub uuid: Secret = "uuid" always,
        /// What protects the body: `auto`, `none`, `zero`, `aes-128-cfb`, `aes-128-gcm` or `chacha20-poly1305`.
        pub security: String = "security" always,
        /// Number of alternative ids; with some, requests are those of the legacy protocol.
        pub alter_id: i64 = "alter_id",
        /// Pad chunks.
        pub global_padding: bool = "global_padding",
        /// Seal the lengths of chunks.
        pub authenticated_length: bool = "authenticated_length",
        /// Networks to carry; both if unset.
        pub network: NetworkList = "network",
        /// TLS.
        pub tls: Option<TlsOutOptions> = "tls",
        /// How datagrams to several peers are carried: `packetaddr`, `xudp`, or empty for not at all.
        pub packet_encoding: String = "packet_encoding",
        /// Several streams in a connection.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
        /// What carries the stream.
        pub transport: Option<TransportOptions> = "transport",
    }
}
