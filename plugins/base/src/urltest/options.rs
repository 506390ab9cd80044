//! Options of the URL test.

use crosspoint_schema::decode::Duration;
use crosspoint_schema::options;

options! {
    /// A group that uses the member which answers fastest.
    pub struct UrlTestOptions ("option.URLTestOutboundOptions") {
        /// Tags of the members.
        pub outbounds: Vec<String> = "outbounds" always,
        /// What to fetch; https://www.gstatic.com/generate_204 if unset.
        pub url: String = "url",
        /// Time between tests; 3 minutes by default.
        pub interval: Duration = "interval",
        /// Milliseconds by which another member must be faster; 50 by default.
        pub tolerance: u16 = "tolerance",
        /// Tests stop when the group was not used for that long; 30 minutes by default.
        pub idle_timeout: Duration = "idle_timeout",
        /// Cut connections of clients when another member is chosen.
        pub interrupt_exist_connections: bool = "interrupt_exist_connections",
    }
}
