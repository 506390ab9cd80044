//! Requests of Trojan: what is read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_proxy::trojan::wire::{KEY, emit_request, key, may_be_key, parse_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = may_be_key(input);
    let Ok((command, target, len)) = parse_request(input) else { return };
    assert!(len <= input.len());
    let request = emit_request(&key("secret"), command, &target);
    let rest = &request[KEY..];
    assert_eq!(parse_request(rest), Ok((command, target, rest.len())));
});
