//! DNS servers, one folder per type, and the inbound and the outbound of type `dns`.

#[cfg(any(feature = "dhcp", feature = "fakeip", feature = "hosts", feature = "local"))]
mod answer;
pub mod client;
#[cfg(feature = "dhcp")]
pub mod dhcp;
#[cfg(feature = "fakeip")]
pub mod fakeip;
#[cfg(feature = "group")]
pub mod group;
#[cfg(feature = "h3")]
pub mod h3;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "https")]
pub mod https;
#[cfg(feature = "inbound")]
pub mod inbound;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "outbound")]
pub mod outbound;
#[cfg(any(feature = "dhcp", feature = "local"))]
mod plain;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(any(feature = "hosts", feature = "local"))]
pub mod system;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(test)]
mod testkit;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "udp")]
pub mod udp;
