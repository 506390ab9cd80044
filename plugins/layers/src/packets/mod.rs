//! How datagrams, and several connections, travel inside the stream or association of one: the encodings that VMess
//! and VLESS share.
//!
//! | module | what it is |
//! |---|---|
//! | [`address`] | destinations with the port in front |
//! | [`packet_addr`] | packetaddr: every datagram of an association names its peer |
//! | [`xudp`] | XUDP: datagrams in frames of mux.cool, each with its peer (the client's end) |
//! | [`mux_cool`] | mux.cool: connections in one stream (the server's end) |

pub mod address;
pub mod mux_cool;
pub mod packet_addr;
pub mod xudp;
