//! resolv.conf and hosts files: somebody else writes them.
#![no_main]

use crosspoint_dns::system::{hosts, resolv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let conf = resolv::parse(text);
    assert!((1..=3).contains(&conf.servers.len()));
    assert!((1..=5).contains(&conf.attempts) && (1..=30).contains(&conf.timeout.as_secs()));
    for (name, addresses) in hosts::parse(text) {
        assert!(!addresses.is_empty() && name == name.to_ascii_lowercase());
    }
});
