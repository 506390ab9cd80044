//! Client and server of this crate against each other.

mod ech;
mod fragments;
mod handshakes;
mod live;
mod support;
