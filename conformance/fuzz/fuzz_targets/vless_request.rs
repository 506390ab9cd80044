//! Requests of VLESS: what is read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_kernel::addr::Target;
use crosspoint_proxy::vless::wire::{Request, emit_request, parse_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok((request, len)) = parse_request(input) else { return };
    assert!(len <= input.len());
    if request.flow.len() > 127 {
        return;
    }
    let target = request.target.clone().unwrap_or_else(Target::unspecified);
    let mut bytes = Vec::new();
    emit_request(&request.id, &request.flow, request.command, &target, &mut bytes);
    let (again, end): (Request, usize) = parse_request(&bytes).expect("what was written is read");
    assert_eq!((again, end), (request, bytes.len()));
});
