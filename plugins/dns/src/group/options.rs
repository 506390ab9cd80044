//! Options of DNS server groups.

use crosspoint_schema::{
    decode::{Duration, Listable},
    options, string_enum,
};

string_enum! {
    /// How the servers of a group are asked.
    pub enum GroupMode: "unknown group mode: " {
        /// In order; the next one when one has failed or takes too long.
        Fallback = "" | "fallback",
        /// All at once; the first good answer counts.
        Parallel = "parallel",
    }
}

options! {
    /// Several servers as one.
    pub struct GroupOptions ("crosspoint.DNSServerGroupOptions") {
        /// Tags of DNS servers.
        pub servers: Listable<String> = "servers",
        /// `fallback` (default) or `parallel`.
        pub mode: GroupMode = "mode",
        /// How long one may take before the next is asked as well (`fallback`); 2 seconds by default.
        pub timeout: Option<Duration> = "timeout",
    }
}
