//! Several streams in one connection.

use crate::options;

options! {
    /// Multiplexing at the server.
    pub struct MultiplexInOptions ("option.InboundMultiplexOptions") {
        /// Accept multiplexed connections.
        pub enabled: bool = "enabled",
        /// Refuse connections without padding.
        pub padding: bool = "padding",
        /// TCP Brutal.
        pub brutal: Option<BrutalOptions> = "brutal",
    }
}

options! {
    /// Multiplexing at the client.
    pub struct MultiplexOutOptions ("option.OutboundMultiplexOptions") {
        /// Multiplex connections.
        pub enabled: bool = "enabled",
        /// `smux`, `yamux` or `h2mux` (default).
        pub protocol: String = "protocol",
        /// Most connections; conflicts with `max_streams`.
        pub max_connections: i64 = "max_connections",
        /// Streams in a connection before another one is opened; 8 when nothing is set.
        pub min_streams: i64 = "min_streams",
        /// Most streams in a connection before another one is opened.
        pub max_streams: i64 = "max_streams",
        /// Pad the start of connections.
        pub padding: bool = "padding",
        /// TCP Brutal.
        pub brutal: Option<BrutalOptions> = "brutal",
    }
}

options! {
    /// TCP Brutal, a congestion control with a fixed rate.
    pub struct BrutalOptions ("option.BrutalOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// Upload in Mbit/s.
        pub up_mbps: i64 = "up_mbps",
        /// Download in Mbit/s.
        pub down_mbps: i64 = "down_mbps",
    }
}
