//! A geosite file: its table, and the items of every category.
#![no_main]

use crosspoint_rules::format::{geosite, source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(file) = geosite::Geosite::new(input) else { return };
    for category in file.categories() {
        if let Ok(items) = file.read(category) {
            source::text(&geosite::exported(geosite::matchers(items)));
        }
    }
});
