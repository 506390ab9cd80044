//! The clock.

use crate::decode::Duration;
use crate::options;
use crate::options::{DialOptions, ServerOptions};

options! {
    /// Keeps a clock of its own by NTP, for protocols that check the time.
    pub struct NtpOptions ("option.NTPOptions") {
        /// Ask the server.
        pub enabled: bool = "enabled",
        /// Time between queries; 30 minutes by default.
        pub interval: Duration = "interval",
        /// Set the clock of the system too.
        pub write_to_system: bool = "write_to_system",
        /// The NTP server; port 123 by default.
        pub server: ServerOptions = flatten,
        /// How it is reached.
        pub dial: DialOptions = flatten,
    }
}
