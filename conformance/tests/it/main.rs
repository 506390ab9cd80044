//! The conformance suite: one program, so that peers are fetched and the daemon is built once.

mod dns;
mod endpoint;
mod golden;
mod guards;
mod harness;
mod live;
mod matrix;
mod network;
mod proxy;
mod rules;
mod ruleset;
mod service;
mod state;
mod tls;
