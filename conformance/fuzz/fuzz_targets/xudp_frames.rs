//! Frames of XUDP as a client reads them, and datagrams that it writes and reads again.
#![no_main]

use crosspoint_kernel::addr::Target;
use crosspoint_layers::{
    framed::{Frame, Framing},
    packets::xudp::Xudp,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut xudp = Xudp::new(Target::new("192.0.2.1", 53));
    let (mut rest, mut out) = (input, Vec::new());
    // A server does not open sessions: the first datagram of a client is none that a client reads.
    xudp.emit(&Target::new("192.0.2.1", 53), b"", &mut out);
    loop {
        match xudp.parse(rest) {
            Ok(Frame::Need(need)) => return assert!(need > rest.len()),
            Err(_) => return,
            Ok(Frame::Skip(used)) => rest = &rest[used..],
            Ok(Frame::Datagram { peer, payload, used }) => {
                let data = &rest[payload];
                out.clear();
                assert!(xudp.emit(&peer, data, &mut out));
                let Ok(Frame::Datagram { peer: same, payload, used: len }) = xudp.parse(&out)
                else {
                    panic!("no datagram any more")
                };
                assert_eq!((same, &out[payload], len), (peer, data, out.len()));
                rest = &rest[used..];
            }
        }
    }
});
