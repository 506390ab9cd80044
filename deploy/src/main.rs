//! The `crosspoint` daemon.
fn main() {}
