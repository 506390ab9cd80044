//! Finding a server name in a ClientHello and cutting the record: places lie within the name, one in each label, and
//! what is not there whole is not found.
#![no_main]

use crosspoint_tls::fragment::{Wanted, cuts, server_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((pick, bytes)) = input.split_first() else {
        return;
    };
    if !bytes.is_empty() {
        let _ = Wanted::of(bytes);
    }
    let places = cuts(bytes, |n| usize::from(*pick) % n);
    let Some(name) = server_name(bytes) else {
        assert!(places.is_empty());
        return;
    };
    assert!(name.start < name.end && name.end <= bytes.len());
    assert!(places.is_sorted_by(|a, b| a < b));
    assert!(places.iter().all(|at| name.contains(at)));
    assert!(server_name(&bytes[..name.end - 1]).is_none());
});
