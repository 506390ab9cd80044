//! Logging.

use crate::options;

options! {
    /// What is logged and where.
    pub struct LogOptions ("option.LogOptions") {
        /// Log nothing.
        pub disabled: bool = "disabled",
        /// Least severe level that is logged: trace, debug, info, warn, error, fatal or panic; trace by default.
        pub level: String = "level",
        /// `stderr` (default), `stdout` or a file.
        pub output: String = "output",
        /// Print the time of each line.
        pub timestamp: bool = "timestamp",
    }
}

/// The levels of the reference, from the least severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer wants to know.
    Debug,
    /// What a user may want to know.
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something failed.
    Error,
    /// The process ends.
    Fatal,
    /// The process ends, by a defect.
    Panic,
}

impl LogOptions {
    /// The level; an empty one is `trace`.
    ///
    /// # Errors
    /// The reference's message for an unknown level, without its prefix `create log factory: parse log level: `.
    pub fn level(&self) -> Result<LogLevel, String> {
        match self.level.as_str() {
            "" | "trace" => Ok(LogLevel::Trace),
            "debug" => Ok(LogLevel::Debug),
            "info" => Ok(LogLevel::Info),
            "warn" | "warning" => Ok(LogLevel::Warn),
            "error" => Ok(LogLevel::Error),
            "fatal" => Ok(LogLevel::Fatal),
            "panic" => Ok(LogLevel::Panic),
            other => Err(format!("unknown log level: {other}")),
        }
    }
}
