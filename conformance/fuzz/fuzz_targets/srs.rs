//! A byte for the version, then the rules of a binary rule-set as they are once inflated; and the whole as a file. What
//! is read can be compiled and matched, and written it reads as the same again.
#![no_main]

use crosspoint_rules::{Compat, Compiled, Facts, format::srs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = srs::read(input);
    let Some((version, body)) = input.split_first() else { return };
    let Ok(rules) = srs::read_body(version % 3 + 1, body) else { return };
    if let Ok(written) = srs::body(&rules) {
        assert_eq!(srs::read_body(rules.version, &written).as_ref(), Ok(&rules));
    }
    if let Ok(compiled) = Compiled::new(rules.clone(), Compat::default()) {
        for name in ["www.example.org", "192.0.2.1", "2001:db8::1"] {
            compiled.matching(&Facts::destination(name)).count();
        }
    }
    let _ = rules.into_source();
});
