//! Endpoints: what is inbound and outbound at once.

mod wireguard;
mod wireguard_clock;
mod wireguard_heal;
mod wireguard_idle;
mod wireguard_net;
mod wireguard_peers;
mod wireguard_stage;
mod wireguard_system;
