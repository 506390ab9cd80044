//! HTTP/1.1 proxying.

pub mod wire;
