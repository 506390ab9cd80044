//! Options of our own, which the reference does not know.

use crate::decode::{Duration, Listable};
use crate::options;

options! {
    /// Options of Crosspoint itself, under the root key `crosspoint`.
    pub struct CrosspointOptions ("crosspoint.Options") {
        /// How crashed components are restarted.
        pub supervision: Option<SupervisionOptions> = "supervision",
        /// Reload when a configuration file changes.
        pub watch: bool = "watch",
        /// How long connections of a removed component may go on; 30 seconds by default.
        pub drain_timeout: Option<Duration> = "drain_timeout",
        /// Exit when a component cannot start, as the reference does, instead of serving with the rest.
        pub strict: bool = "strict",
        /// Bugs of the reference to keep, by name.
        pub compat: Listable<String> = "compat",
    }
}

options! {
    /// How crashed components are restarted.
    pub struct SupervisionOptions ("crosspoint.SupervisionOptions") {
        /// Wait before the first restart; 100 ms by default. Doubles each time.
        pub backoff_min: Option<Duration> = "backoff_min",
        /// Longest wait; 30 seconds by default.
        pub backoff_max: Option<Duration> = "backoff_max",
        /// Restarts within the window after which a component is degraded; 8 by default.
        pub max_restarts: Option<u32> = "max_restarts",
        /// The window; one minute by default.
        pub window: Option<Duration> = "window",
        /// Time of health after which the wait starts anew; 60 seconds by default.
        pub reset_after: Option<Duration> = "reset_after",
        /// Time between health checks of a component; 300 ms by default.
        pub pulse: Option<Duration> = "pulse",
    }
}

macro_rules! with_default {
    ($($(#[doc = $doc:literal])* $method:ident: $field:ident = $millis:literal;)*) => {$(
        $(#[doc = $doc])*
        #[must_use]
        pub fn $method(&self) -> std::time::Duration {
            self.$field.unwrap_or(Duration::from_millis($millis)).get()
        }
    )*};
}

impl SupervisionOptions {
    with_default! {
        /// Wait before the first restart.
        backoff_min: backoff_min = 100;
        /// Longest wait.
        backoff_max: backoff_max = 30_000;
        /// In which restarts are counted.
        window: window = 60_000;
        /// Time of health after which the wait starts anew.
        reset_after: reset_after = 60_000;
        /// Time between health checks.
        pulse: pulse = 300;
    }

    /// Restarts within the window after which a component is degraded.
    #[must_use]
    pub fn max_restarts(&self) -> u32 {
        self.max_restarts.unwrap_or(8)
    }
}

impl CrosspointOptions {
    with_default! {
        /// How long connections of a removed component may go on.
        drain_timeout: drain_timeout = 30_000;
    }

    /// The supervision options or their defaults.
    #[must_use]
    pub fn supervision(&self) -> SupervisionOptions {
        self.supervision.clone().unwrap_or_default()
    }
}
