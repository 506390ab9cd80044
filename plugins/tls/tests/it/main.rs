//! Client and server of this crate against each other.

mod ech;
mod fragments;
mod handshakes;
mod leaving;
mod live;
mod support;
