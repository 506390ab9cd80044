//! DNS servers, one folder per type: `local` (what this machine asks), `hosts`, `fakeip`.

#[cfg(any(feature = "dhcp", feature = "fakeip", feature = "hosts", feature = "local"))]
mod answer;
mod client;
#[cfg(feature = "dhcp")]
pub mod dhcp;
#[cfg(feature = "fakeip")]
pub mod fakeip;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "inbound")]
pub mod inbound;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "outbound")]
pub mod outbound;
#[cfg(any(feature = "dhcp", feature = "local"))]
mod plain;
#[cfg(any(feature = "hosts", feature = "local"))]
mod system;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(test)]
mod testkit;
#[cfg(feature = "udp")]
pub mod udp;
