//! DNS servers, one folder per type: `local` (the system's resolver) and `hosts`.

mod answer;
#[cfg(any(feature = "udp", feature = "tcp"))]
pub mod client;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "udp")]
mod udp;
