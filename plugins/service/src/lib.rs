//! Services: components that own connections of their own and route none.
//!
//! | module | what it is |
//! |---|---|
//! | [`derp`] | relays packets between Tailscale nodes |
//! | [`ssm_api`] | users of inbounds, and what they move, over HTTP |

#[cfg(feature = "derp")]
pub mod derp;
#[cfg(any(feature = "derp", feature = "ssm-api"))]
mod escape;
#[cfg(feature = "ssm-api")]
pub mod ssm_api;
