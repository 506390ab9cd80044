//! The protocols without cryptography: mixed, socks, http, direct, block, selector, urltest.

pub mod host;
pub mod http;
pub mod socks;
pub mod users;
