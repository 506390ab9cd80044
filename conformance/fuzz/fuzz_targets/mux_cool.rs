//! Frames of mux.cool: what is read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_layers::packets::mux_cool::frame::{Parsed, emit, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    loop {
        match parse(rest) {
            Ok(Parsed::Need(need)) => return assert!(need > rest.len()),
            Err(_) => return,
            Ok(Parsed::Frame { head, payload, used }) => {
                let data = payload.map(|at| &rest[at]);
                let mut again = Vec::new();
                emit(&head, data, &mut again);
                let Ok(Parsed::Frame { head: same, payload, used: len }) = parse(&again) else {
                    panic!("no frame any more")
                };
                assert_eq!((same, len), (head, again.len()));
                assert_eq!(payload.map(|at| &again[at]), data);
                rest = &rest[used..];
            }
        }
    }
});
