//! A name in the first line, then a filter of AdGuard. Its rules are written, read, and matched with the name.
#![no_main]

use crosspoint_rules::{
    Compat, Compiled, Facts,
    format::{adguard::Filter, srs},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (name, text) = input.split_once('\n').unwrap_or(("a.example", input));
    let Ok(rules) = Filter::parse(text).rules() else { return };
    let Ok(body) = srs::body(&rules) else { return };
    let read = srs::read_body(rules.version, &body);
    let Ok(read) = read else { panic!("{read:?}") };
    if let Ok(compiled) = Compiled::new(read, Compat::default()) {
        compiled.matching(&Facts::destination(name)).count();
    }
});
