//! The option blocks that components share, and the root.

mod auth;
mod dial;
mod domain_resolver;
mod listen;
mod server;
mod udp_over_tcp;

pub use auth::AuthUser;
pub use dial::{DialOptions, InterfaceType, NetworkStrategy};
pub use domain_resolver::{DomainResolver, DomainStrategy};
pub use listen::{InboundLegacyOptions, ListenOptions};
pub use server::{DnsAddressOptions, ServerOptions};
pub use udp_over_tcp::UdpOverTcpOptions;
