//! What protocols are layered on.
//!
//! | module | what it is |
//! |---|---|
//! | [`uplink`] | the way from an outbound to its server: dial, TLS, transport |
//! | [`entrance`] | the way of clients into an inbound: TLS, transport |
//! | [`spec`] | what the specs of plugins share |
//! | [`fetch`] | the HTTP client of the daemon itself |

pub mod entrance;
pub mod fetch;
pub mod spec;
pub mod uplink;
