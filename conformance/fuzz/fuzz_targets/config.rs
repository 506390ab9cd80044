//! Any text as a configuration: parse, decode, print, and parse again what was printed.
#![no_main]

use crosspoint_schema::{
    Config, Context,
    json::{Loaded, compact, to_json},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(loaded) = Loaded::from_text("fuzz.json", text) else { return };
    // What was read prints as JSON, and reads back as the same tree.
    let printed = compact(&loaded.root);
    let again = Loaded::from_text("again.json", &printed).expect("we printed it");
    assert_eq!(compact(&again.root), printed);
    let cx = Context::new(loaded.sources);
    if let Ok(config) = Config::decode(&loaded.root, &cx) {
        let _ = config.canonical(|raw| to_json(&raw.options));
    }
});
