//! Endpoints: what is inbound and outbound at once.

mod wireguard;
