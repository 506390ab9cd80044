//! Services: components that carry no connections.
//!
//! | module | what it is |
//! |---|---|
//! | [`ssm_api`] | users of inbounds, and what they move, over HTTP |

#[cfg(feature = "ssm-api")]
pub mod ssm_api;
