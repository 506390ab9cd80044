//! What protocols are layered on.
//!
//! | module | what it is |
//! |---|---|
//! | [`uplink`] | the way from an outbound to its server: dial, TLS, transport |
//! | [`inbound`] | what inbounds over streams have in common |
//! | [`offer`], [`roster`] | the one spec of all of them; users that change while they run |
//! | [`entrance`] | the way of clients into an inbound: TLS, transport |
//! | [`transport`] | what carries a protocol's stream |
//! | [`outer`] | what lies around a protocol's outbound: `mux`, [`uot`] |
//! | [`unpack`], [`branches`] | connections that carry others |
//! | [`mux`], [`uot`] | several streams in one (sing-mux); datagrams in a stream |
//! | [`address`] | destinations as SOCKS5 writes them, which most protocols share |
//! | [`packets`], [`framed`] | datagrams (and mux.cool) in streams: the encodings that several protocols share |
//! | [`input`], [`pool`] | buffers of streams; those of the thread, so that an idle connection holds none |
//! | [`spec`] | what the specs of plugins share |
//! | [`fetch`] | the HTTP client of the daemon itself |

pub mod address;
pub mod branches;
pub mod entrance;
pub mod fetch;
pub mod framed;
pub mod inbound;
pub mod input;
pub mod mux;
pub mod offer;
pub mod outer;
pub mod packets;
pub mod pool;
pub mod roster;
pub mod spec;
pub mod transport;
pub mod unpack;
pub mod uot;
pub mod uplink;
