//! DNS: what clients are told, by the reference and by us, and where queries go.

mod client;
mod compared;
mod dhcp;
mod fake;
mod front;
mod leak;
mod local;
mod origin;
mod random;
mod rough;
mod servers;
mod unbound;
