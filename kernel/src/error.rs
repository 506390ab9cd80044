//! Why something failed, in terms that the caller can act on.

use std::{any::Any, fmt, io};

/// What kind of failure ended a dial. Inbounds map it to the reply of their protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialClass {
    /// The peer refused the connection.
    Refused,
    /// No route to the network.
    NetworkUnreachable,
    /// No route to the host, or the name does not resolve.
    HostUnreachable,
    /// No answer in time.
    TimedOut,
    /// A rule or an outbound of type `block` says no.
    Rejected,
    /// The outbound does not speak this network or address type.
    Unsupported,
    /// The component is restarting or degraded.
    Down,
    /// The proxy refused our credentials.
    Auth,
    /// The proxy spoke nonsense.
    Protocol,
    /// The dial went through too many outbounds.
    Loop,
    /// Anything else.
    Other,
}

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This machine: no descriptor, no permission, a component that is down.
    Local,
    /// A proxy between here and the target.
    Proxy,
    /// The target.
    Target,
}

/// A dial that failed.
#[derive(Clone, Debug)]
pub struct DialError {
    /// What kind of failure.
    pub class: DialClass,
    /// Whose fault.
    pub side: Side,
    /// Whether the same dial may work a moment later.
    pub retry: bool,
    message: Box<str>,
}

impl DialError {
    /// An error of that class with a message that an operator can act on.
    pub fn new(class: DialClass, side: Side, message: impl fmt::Display) -> Self {
        let retry = matches!(class, DialClass::TimedOut | DialClass::Down);
        Self { class, side, retry, message: message.to_string().into() }
    }

    /// The protocol or address type is not supported by this outbound.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(DialClass::Unsupported, Side::Local, message)
    }

    /// The peer broke its protocol.
    pub fn protocol(message: impl fmt::Display) -> Self {
        Self::new(DialClass::Protocol, Side::Proxy, message)
    }

    /// The same error with what was being done in front.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message).into();
        self
    }

    /// Classifies an I/O error of a socket that talks to `side`.
    pub fn from_io(error: &io::Error, side: Side) -> Self {
        use io::ErrorKind as K;
        let class = match error.kind() {
            K::ConnectionRefused => DialClass::Refused,
            K::NetworkUnreachable | K::NetworkDown => DialClass::NetworkUnreachable,
            K::HostUnreachable => DialClass::HostUnreachable,
            K::TimedOut => DialClass::TimedOut,
            _ => DialClass::Other,
        };
        Self::new(class, side, error)
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DialError {}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::from_io(&error, Side::Target)
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        let kind = match error.class {
            DialClass::Refused => io::ErrorKind::ConnectionRefused,
            DialClass::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            DialClass::HostUnreachable => io::ErrorKind::HostUnreachable,
            DialClass::TimedOut => io::ErrorKind::TimedOut,
            DialClass::Unsupported => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why a component could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The options are wrong in a way that only building shows (a missing tag, a bad key).
    #[error("{0}")]
    Options(String),
    /// The running build has no such feature; the message names it.
    #[error("{0} is not in this build")]
    NotInBuild(String),
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
    /// Building took longer than the start deadline.
    #[error("did not start within {0:?}")]
    Deadline(std::time::Duration),
}

impl BuildError {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl fmt::Display, source: io::Error) -> Self {
        Self::Io { what: what.to_string(), source }
    }

    /// Wrong options.
    pub fn options(message: impl fmt::Display) -> Self {
        Self::Options(message.to_string())
    }
}

/// What a caught panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
