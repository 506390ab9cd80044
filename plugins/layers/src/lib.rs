//! What protocols are layered on.
//!
//! [`fetch`] is the HTTP client of the daemon itself.

pub mod fetch;
