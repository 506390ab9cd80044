//! Datagrams of a SOCKS5 association: what parses is what was written.
#![no_main]

use crosspoint_base::socks::wire::{
    MAX_UDP_HEADER, emit_udp_header, parse_udp_header, udp_header_len,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let Ok((target, len)) = parse_udp_header(datagram) else {
        return;
    };
    assert!(len <= datagram.len() && len <= MAX_UDP_HEADER);
    // Some addresses have several forms (mapped ones, literals as names), their meaning has one.
    let mut header = Vec::new();
    emit_udp_header(&target, &mut header);
    assert_eq!(header.len(), udp_header_len(&target));
    assert_eq!(parse_udp_header(&header), Ok((target, header.len())));
    for cut in 0..len {
        assert!(parse_udp_header(&datagram[..cut]).is_err());
    }
});
