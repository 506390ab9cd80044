//! Peers in front of datagrams (packetaddr): what is read is what was written.
#![no_main]

use crosspoint_layers::packets::packet_addr::{emit, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((peer, len)) = parse(input) else { return };
    let again = emit(peer.socket_addr().expect("an address"));
    assert!(len <= input.len());
    assert_eq!(parse(&again), Some((peer, again.len())));
});
