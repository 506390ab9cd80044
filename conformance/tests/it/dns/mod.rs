//! DNS: what clients are told, by the reference and by us, and where queries go.

mod client;
mod compared;
mod front;
mod leak;
mod origin;
