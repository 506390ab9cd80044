//! UDP over TCP: a byte of flags (a request first, one peer, addresses as in SOCKS5), then a request or datagrams. What is
//! read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_kernel::addr::Target;
use crosspoint_layers::{
    address::{AddressError, SOCKS, UOT},
    framed::{Frame, Framing as _},
    uot::wire::{Datagrams, Request},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((flags, mut rest)) = input.split_first() else { return };
    let mut again = Vec::new();
    if flags & 1 != 0 {
        match Request::parse(rest) {
            Ok((request, len)) => {
                assert!(len <= rest.len());
                request.emit(&mut again);
                assert_eq!(Request::parse(&again), Ok((request, again.len())));
            }
            Err(AddressError::Incomplete(need)) => assert!(need > rest.len()),
            Err(_) => {}
        }
        return;
    }
    let peer = (flags & 2 != 0).then(Target::unspecified);
    let families = if flags & 4 != 0 { SOCKS } else { UOT };
    let mut datagrams = Datagrams { families, peer };
    loop {
        match datagrams.parse(rest) {
            Err(_) => return,
            Ok(Frame::Need(need)) => return assert!(need > rest.len()),
            Ok(Frame::Skip(_)) => panic!("nothing is skipped"),
            Ok(Frame::Datagram { peer, payload, used }) => {
                assert!(used > 0);
                let data = &rest[payload];
                again.clear();
                assert!(datagrams.emit(&peer, data, &mut again));
                let Ok(Frame::Datagram { peer: same, payload, used: len }) = datagrams.parse(&again)
                else {
                    panic!("no datagram any more")
                };
                assert_eq!((same, &again[payload], len), (peer, data, again.len()));
                rest = &rest[used..];
            }
        }
    }
});
