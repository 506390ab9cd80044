//! DERP: frames, pages, STUN, mesh and admission over loopback, and real nodes whose only path is our server. The same tests
//! hold for the reference (`CONFORMANCE_SUBJECT=reference`), whose own DERP is that of Tailscale.

mod frames;
mod hostile;
mod live;
mod mesh;
mod nodes;
mod pages;
mod stage;
mod stun;
mod verify;
mod websocket;
