//! A tailnet on one machine: a control server, a DERP client, and what DERP servers are asked over UDP. For real nodes
//! (Caddy with tsnet, tailcat) and for loads of our own.

mod control;
pub mod derp;
mod noise;
pub mod stun;

pub use control::Control;
